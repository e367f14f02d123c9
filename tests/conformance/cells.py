"""One cell of the table: what a probe gives in a situation, held against the brute force."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import gradlab as gl
from conformance.brute_force import expected, make_scaler, plain
from conformance.checks import Differs, check_values
from conformance.runs import Run, hooks_of, make_model, random_states
from conformance.situation import EXAMPLES, INPUTS, PROBE_BACKWARD, RESPONSES, Situation


@dataclass
class Outcome:
    """What came of a cell: `equal`, `refused` with a sentence, or `wrong` with what was got and what is right."""

    kind: str
    sentence: str = ""


@functools.cache
def outcome(situation: Situation, probe: str) -> Outcome:
    """Run a probe in a situation."""
    try:
        check(situation, probe)
    except gl.GradlabError as error:
        return Outcome("refused", str(error))
    except Differs as error:
        return Outcome("wrong", str(error))
    except Exception as error:
        return Outcome("wrong", f"raw {type(error).__name__}: {' '.join(str(error).split())[:160]}")
    return Outcome("equal")


def check(situation: Situation, probe: str) -> None:
    """Hold what the probe gives against the brute force.

    Raises:
        Differs: Where they do.
        GradlabError: Where the probe refuses.
    """
    right = expected(situation)
    found, run = measured(situation, probe)
    check_values(situation, probe, right, found)
    _check_nothing_else_changed(situation, run)


@functools.cache
def measured(situation: Situation, probe: str, **options: Any) -> tuple[Any, Run]:
    """Run the loop with a probe on, once, whatever is then asked of it; the probe, left, and the run."""
    scaler = make_scaler(situation)
    given = {**situation.options.get(probe, {}), **options}
    if scaler is not None and probe not in (RESPONSES, INPUTS):
        given["scaler"] = scaler
    if probe in EXAMPLES:
        given["reduction"] = situation.reduction
    kind = getattr(gl, probe.partition(",")[0])
    model = make_model(situation)
    with _quiet(), situation.around(model):
        if situation.managed:
            run = Run(situation, model, make=lambda module: kind(module, **given), scaler=scaler)
            run.go()
            return run.probe, run
        gradients: list[torch.Tensor] = []
        found = kind(model, **given, **({"observe": gradients.append} if probe == INPUTS else {}))
        run = Run(situation, model, found, found.backward if probe == PROBE_BACKWARD else None, scaler=scaler)
        with found:
            run.go()
    return (found, gradients) if probe == INPUTS else found, run


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_nothing_else_changed(situation: Situation, run: Run) -> None:
    """Gradients, buffers and random states are what they are without the probe."""
    snapshots, buffers, states = plain(situation)
    for number, (got, wanted) in enumerate(zip(run.snapshots, snapshots, strict=True)):
        changed = [name for name, gradient in wanted.items() if not _same_gradient(situation, got[name], gradient)]
        if changed:
            raise Differs(f"step {number}: the probe changes the gradient of {', '.join(changed)}")
    moved = [name for name, buffer in run.net.named_buffers() if not torch.equal(buffer, buffers[name])]
    if moved:
        raise Differs(f"the probe changes the buffers {', '.join(moved)}")
    if random_states() != states:
        raise Differs("the probe moves a random state")
    if hooks_of(run.net) != hooks_of(make_model(situation)):
        raise Differs("hooks stay on the model")
    if torch.overrides._get_current_function_mode_stack():
        raise Differs("a function mode stays on")


def _same_gradient(situation: Situation, got: Tensor | None, wanted: Tensor | None) -> bool:
    """Whether they agree to rounding, which a sum in another order leaves."""
    if got is None or wanted is None:
        return got is wanted
    if not wanted.numel():
        return got.shape == wanted.shape
    largest = wanted.abs().max().item()
    return bool((got - wanted).abs().max().item() <= 10 * situation.tolerance * largest)


def names_of(situation: Situation) -> set[str]:
    """Everything of the model that an error may name."""
    model: nn.Module = make_model(situation)
    modules = {name for name, _ in model.named_modules() if name}
    classes = {type(module).__name__ for module in model.modules()}
    return modules | classes | {name for name, _ in model.named_parameters()}
