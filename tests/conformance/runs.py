"""Runs of a situation's loop: of the model, with a probe or without one, and of its reference."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conformance.reference import Note, Reference, bare
from conformance.situation import Situation


def seed_all(seed: int = 0) -> None:
    """Set every generator that a model may draw from."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that models draw from
    random.seed(seed)


def random_states() -> tuple[Any, ...]:
    """Where all of them stand."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), name, keys.tolist(), tuple(rest), random.getstate()


def hooks_of(model: nn.Module) -> int:
    """How many hooks hang on its modules and parameters."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    on_modules = sum(len(getattr(module, kind, {})) for module in model.modules() for kind in kinds)
    kinds = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return on_modules + sum(len(getattr(p, kind) or ()) for p in model.parameters() for kind in kinds)


def make_model(situation: Situation) -> nn.Module:
    """The situation's model, always the same."""
    seed_all()
    model = situation.model()
    return model.double() if situation.dtype is torch.float64 else model


def make_data(situation: Situation) -> list[tuple[Tensor, Tensor]]:
    """The situation's batches, always the same."""
    seed_all(1)
    return [tuple(t.to(situation.dtype) if t.is_floating_point() else t for t in batch) for batch in situation.data()]


class Run:
    """A loop over a model.

    Args:
        situation: Whose loop it is.
        model: What it runs.
        probe: What is told of each step, if anything is.
        backward: What is called in place of `loss.backward`.
        make: Makes the probe, where the loop attaches it itself.
    """

    by_hand = False

    def __init__(
        self,
        situation: Situation,
        model: nn.Module,
        probe: Any = None,
        backward: Callable[..., None] | None = None,
        make: Callable[[nn.Module], Any] | None = None,
        scaler: Any = None,
    ) -> None:
        self.situation, self.net, self.objective = situation, model, situation.objective
        self.probe, self._backward, self.make, self.scaler = probe, backward, make, scaler
        self.snapshots: list[dict[str, Tensor | None]] = []

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Run the backward pass, by `loss.backward` or by the probe."""
        if self._backward is None:
            loss.backward(**options)
        else:
            self._backward(loss, **options)

    def step(self) -> None:
        """Tell of an optimizer step."""
        self.snapshot()
        if hasattr(self.probe, "step"):
            self.probe.step()

    def attached(self, probe: Any) -> Any:
        """Keep a probe that the loop itself has made."""
        self.probe = probe
        return probe

    def snapshot(self) -> None:
        """Keep the parameters' gradients as they are."""
        named = self.net.named_parameters()
        self.snapshots.append({bare(n): None if p.grad is None else p.grad.detach().clone() for n, p in named})

    @torch.no_grad()
    def update(self, rate: float = 0.1) -> None:
        """The optimizer's step, and `zero_grad`."""
        for parameter in self.net.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None

    def part(self, name: str, *inputs: Any) -> Any:
        """Call a part of the model, and not the model."""
        return self.net.get_submodule(name)(*inputs)

    def go(self) -> None:
        """Run all batches."""
        batches = make_data(self.situation)
        seed_all(2)
        for x, y in batches:
            self.situation.loop(self, x, y)


@dataclass
class StepValues:
    """What one step comes to.

    Attributes:
        gradients: Of each parameter, as they are at the step.
        notes: The step's responses, with their gradients.
        examples: Of each parameter, the gradients of the examples' own losses, shape (B, P); None where none has any.
    """

    gradients: dict[str, Tensor | None]
    notes: list[Note]
    examples: dict[str, Tensor | None] = field(default_factory=dict)


class ReferenceRun(Run):
    """The same loop over the computation by hand, and every value that a probe may give."""

    by_hand = True

    def __init__(self, situation: Situation, model: nn.Module) -> None:
        reference = Reference(situation.reference, situation.parts, model)
        scaler = torch.amp.GradScaler("cpu", enabled=False) if situation.scaler else None
        super().__init__(situation, reference, scaler=scaler)  # type: ignore[arg-type]
        self.steps: list[StepValues] = []
        self._batch: tuple[Tensor, Tensor] | None = None
        self._passes = 0

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Add up the gradients of parameters and responses."""
        self._passes += 1
        parameters = [weight for weight in self.net.parameters() if weight.requires_grad]
        notes = [note for note in self.net.notes if note.value.requires_grad]
        ends = [*parameters, *(note.value for note in notes)]
        found = torch.autograd.grad(loss, ends, allow_unused=True, retain_graph=options.get("retain_graph"))
        for place, gradient in zip([*parameters, *notes], found, strict=True):
            if gradient is not None:
                place.grad = gradient.detach() if place.grad is None else place.grad + gradient.detach()

    def step(self) -> None:
        """Keep what the step comes to."""
        self.snapshot()
        drawn = self.net.take_drawn()
        examples = self._examples(drawn) if self._passes else {}
        self._passes = 0
        self.steps.append(StepValues(self.snapshots[-1], self.net.notes, examples))
        self.net.notes = []

    def _examples(self, drawn: list[Any]) -> dict[str, Tensor | None]:
        """One example at a time."""
        assert self._batch is not None
        x, y = self._batch
        named = {name: weight for name, weight in self.net.named_parameters() if weight.requires_grad}
        rows: dict[str, list[Tensor | None]] = {name: [] for name in named}
        if not y.ndim:
            return {}
        losses = self.situation.alone or [self.objective]
        for own_loss, i in itertools.product(losses, range(len(x))):
            with self.net.silent(drawn, i):
                loss = own_loss(self.net, x[i : i + 1], y[i : i + 1])
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            for name, gradient in zip(named, found, strict=True):
                rows[name].append(None if gradient is None else gradient.flatten())
        return {name: _stacked(gradients, named[name]) for name, gradients in rows.items()}

    def part(self, name: str, *inputs: Any) -> Any:
        return self.net.part(name, *inputs)

    def go(self) -> None:
        batches = make_data(self.situation)
        seed_all(2)
        with self.net.noting():
            for x, y in batches:
                self._batch = x, y
                self.situation.loop(self, x, y)


def _stacked(gradients: list[Tensor | None], like: Tensor) -> Tensor | None:
    if all(gradient is None for gradient in gradients):
        return None
    return torch.stack([torch.zeros_like(like).flatten() if g is None else g for g in gradients])
