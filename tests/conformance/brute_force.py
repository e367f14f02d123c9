"""The slow, obvious value of everything that a probe gives in a situation: float64, plain autograd, no hook of ours."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conformance.reference import Note, Site
from conformance.runs import ReferenceRun, Run, make_model, random_states
from conformance.situation import Part, Situation


@dataclass
class ExampleValues:
    """Norms of the gradients of the examples' own losses, and what they tell together; None where there are none."""

    norms: list[float]
    diversity: float


@dataclass
class Expected:
    """What the probes have to give.

    Attributes:
        std: Of each response, over all that was run.
        block_std: Of the output of each block.
        optional: The responses that a probe may leave out.
        norms: Of each row's gradient, for each step; None where it has none.
        response_norms: Of the gradient of each response, for each step; None where none arrives.
        block_norms: The same of the outputs of blocks; empty where the situation says nothing of them.
        totals: The norm of the gradients of all parameters, for each step.
        examples: Of each row and of `total`, for each step.
        inputs: The gradient of the summed logits for each pass; None where there is none.
        snapshots: The parameters' gradients at each step.
        order: The responses in the order of execution.
        rows: The names of the rows of weights.
    """

    std: dict[Site, float]
    block_std: dict[Site, float]
    optional: set[Site]
    norms: list[dict[str, float | None]]
    response_norms: list[dict[Site, float | None]]
    block_norms: list[dict[Site, float | None]]
    totals: list[float]
    examples: list[dict[str, ExampleValues | None]]
    inputs: list[Tensor | None]
    snapshots: list[dict[str, Tensor | None]]
    order: list[str]
    rows: list[str]


@functools.cache
def expected(situation: Situation) -> Expected:
    """Everything that the situation comes to."""
    model = make_model(situation)
    run = ReferenceRun(situation, model)
    run.go()
    rows = rows_of(situation, run.net.weights)
    all_notes = [note for step in run.steps for note in step.notes] + run.net.notes
    layers = [note for note in all_notes if not note.block]
    steps = run.steps
    return Expected(
        std=_stds(layers),
        block_std=_stds([note for note in all_notes if note.block]),
        optional={note.site for note in layers if not note.demanded},
        norms=[{row: _norm(_parts(step.gradients, parts)) for row, parts in rows.items()} for step in steps],
        response_norms=[_site_norms([n for n in step.notes if not n.block]) for step in steps],
        block_norms=[_site_norms([n for n in step.notes if n.block]) for step in steps],
        totals=[_norm([*step.gradients.values()]) or 0.0 for step in steps],
        examples=[_examples(step.examples, {**rows, "total": list(step.examples)}, run.net.weights) for step in steps],
        inputs=run.net.input_gradients,
        snapshots=run.snapshots,
        order=list(dict.fromkeys(note.site[0] for note in layers)),
        rows=list(rows),
    )


Plain = tuple[list[dict[str, Tensor | None]], dict[str, Tensor], tuple[object, ...]]


@functools.cache
def plain(situation: Situation) -> Plain:
    """Without a probe: the parameters' gradients at each step, the buffers at the end, where random states are then."""
    run = Run(situation, make_model(situation), scaler=make_scaler(situation))
    with situation.around(run.net):
        run.go()
    return run.snapshots, dict(run.net.named_buffers()), random_states()


def make_scaler(situation: Situation) -> torch.amp.GradScaler | None:
    return torch.amp.GradScaler("cpu", init_scale=256.0) if situation.scaler else None


def rows_of(situation: Situation, weights: dict[str, Tensor]) -> dict[str, list[Part]]:
    """What each row is made of: a layer's `weight`, or any other parameter of two dimensions or more."""
    if situation.rows is not None:
        return {row: list(parts) for row, parts in situation.rows.items()}
    wide = [name for name, weight in weights.items() if weight.ndim >= 2]
    return {name.removesuffix(".weight"): [name] for name in wide}


def _parts(gradients: dict[str, Tensor | None], parts: list[Part]) -> list[Tensor | None]:
    found = []
    for part in parts:
        name, rows = part if isinstance(part, tuple) else (part, slice(None))
        gradient = gradients.get(name)
        found.append(None if gradient is None else gradient[rows] if gradient.ndim else gradient)
    return found


def _norm(gradients: list[Tensor | None]) -> float | None:
    there = [gradient for gradient in gradients if gradient is not None]
    return math.hypot(*(_wide(gradient).abs().norm().item() for gradient in there)) if there else None


def _wide(values: Tensor) -> Tensor:
    return values.detach().to(torch.complex128 if values.is_complex() else torch.float64)


def _stds(notes: list[Note]) -> dict[Site, float]:
    return {site: _std([n.value for n in notes if n.site == site]) for site in {n.site: None for n in notes}}


def _std(values: list[Tensor]) -> float:
    flat = torch.cat([_wide(value).flatten() for value in values])
    return flat.std(correction=0).item() if flat.numel() else math.nan


def _site_norms(notes: list[Note]) -> dict[Site, float | None]:
    return {site: _norm([n.grad for n in notes if n.site == site]) for site in {n.site: None for n in notes}}


def _examples(
    gradients: dict[str, Tensor | None], rows: dict[str, list[Part]], weights: dict[str, Tensor]
) -> dict[str, ExampleValues | None]:
    found: dict[str, ExampleValues | None] = {}
    for row, parts in rows.items():
        there = []
        for part in parts:
            name, cut = part if isinstance(part, tuple) else (part, slice(None))
            gradient = gradients.get(name)
            if gradient is not None:
                each = _wide(gradient).unflatten(1, weights[name].shape) if weights[name].ndim else _wide(gradient)
                there.append((each[:, cut] if weights[name].ndim else each).flatten(1))
        found[row] = None if not there else _values(torch.cat(there, 1))
    return found


def _values(rows: Tensor) -> ExampleValues:
    norms, total = rows.norm(dim=1), rows.sum(0).norm()
    diversity = (norms.square().sum() / total.square()).item() if total else math.nan
    return ExampleValues(norms.tolist(), diversity)


def parameters_of(model: nn.Module) -> int:
    """Elements of all parameters, each once."""
    return sum(parameter.numel() for parameter in model.parameters())
