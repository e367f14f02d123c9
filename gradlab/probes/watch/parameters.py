"""Gradients of weights, and what each step of an optimizer does to the weights, measured where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradlab.probes.watch.computed_steps import can_compute, computed_steps, is_short
from gradlab.probes.watch.record import ids_of
from gradlab.probes.weights import Part, WeightRow, weight_rows
from gradlab.results.grouping import some
from gradlab.stats import l2_norms
from gradlab.stats.updates import inner_products, nonzero_counts

FIELDS = ("gradient", "given", "weight", "update", "after", "product", "moving", "changed", "stored")
"""Norms of a gradient as backward passes left it and as the optimizer was given it, of a weight before the step, of
what the step adds, of the weight after it, the inner product of step and given gradient; of weights in 16 bits the
numbers of elements that the step is to change, and of those among them that it has changed, and the norm of what they
have kept of the weight."""


@dataclass
class Columns:
    """Some of `FIELDS`, each of some parts.

    Attributes:
        names: Of the fields.
        parts: Numbers of the parts that each has values of.
        values: On a device, one tensor a field.
    """

    names: list[str] = field(default_factory=list)
    parts: list[list[int]] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def add(self, name: str, parts: Sequence[int], values: Tensor) -> None:
        """Add a field, of no part twice."""
        self.names.append(name)
        self.parts.append(list(parts))
        self.values.append(values)

    def read(self, values: Sequence[float]) -> dict[int, dict[str, float]]:
        """Every part's fields, by its number, of the values of all columns one after the other."""
        found: dict[int, dict[str, float]] = {}
        arrived = iter(values)
        for name, parts in zip(self.names, self.parts, strict=True):
            for part in parts:
                found.setdefault(part, {})[name] = next(arrived)
        return found


class ParameterWatch:
    """Measures gradients when a backward pass ends, and weights before and after a step.

    Where weights have 16 bits, the update is what the optimizer computes, and not what rounding leaves of it: see
    `computed_steps`.

    Args:
        model: Any.
        rows: What is measured as one layer, by name.
        updates: Whether what steps do is measured.

    Attributes:
        parts: Of all rows and of all other parameters of the model, each once.
        moved: Names of parameters that a step has changed though they are frozen or have no gradient: their updates are
            not measured.
        unknown: Names of parameters whose updates are not known, since their optimizer's steps cannot be made twice.
    """

    def __init__(self, model: nn.Module, rows: Mapping[str, WeightRow], *, updates: bool) -> None:
        self.updates = updates
        every = [*rows.values(), *weight_rows(model, "all").values()]
        self.parts = list({part.key: part for row in every for part in row.parts}.values())
        self.unknown: dict[str, None] = {}
        self.moved: dict[str, None] = {}
        self._versions: dict[int, int] = {}
        self._ended: dict[int, Tensor] = {}
        self._columns = Columns()
        self._kept: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}
        self._short: dict[int, Tensor] = {}
        self._moving: dict[int, Tensor] = {}

    def reset(self) -> None:
        """Forget the backward passes: what follows belongs to another step."""
        self._ended = {}

    def pass_ended(self) -> None:
        """Take the norms of all gradients as the backward passes so far have left them."""
        numbers, gradients = self._there(range(len(self.parts)))
        self._ended = dict(zip(numbers, l2_norms(gradients).unbind(), strict=True)) if numbers else {}

    def before(self, optimizer: Optimizer, owned: set[int], scale: Tensor | None, *, missed: bool = False) -> None:
        """Take in gradients and weights before a step.

        Args:
            optimizer: Whose step it is.
            owned: Ids of the parameters that it is to tell of.
            scale: What the loss of the backward passes was multiplied by.
            missed: Whether there may have been backward passes that were not seen.
        """
        numbers = [n for n, part in enumerate(self.parts) if id(part.parameter) in owned and _is_trained(part)]
        there, gradients = self._there(numbers)
        if self.updates:
            self._versions |= self._versions_of(owned.difference(id(self.parts[n].parameter) for n in there))
        if not numbers:
            return
        own: Tensor | None = getattr(optimizer, "grad_scale", None)
        self._columns.add("weight", numbers, l2_norms([self._of(n, self.parts[n].parameter) for n in numbers]))
        if not there:
            return
        given = l2_norms(gradients)
        given = given if own is None else given / own.to(given)
        self._columns.add("given", there, given)
        ended = [number for number in there if number in self._ended]
        if ended:
            norms = torch.stack([self._ended[number] for number in ended])
            self._columns.add("gradient", ended, norms if scale is None else norms / scale.to(norms))
        elif not missed:
            # There was no backward pass: somebody else has put the gradients there.
            self._columns.add("gradient", there, given)
        if self.updates:
            self._begin(optimizer, there, own)

    def _begin(self, optimizer: Optimizer, numbers: Sequence[int], scale: Tensor | None) -> None:
        """Keep what the difference needs, or find the step that is about to be made."""
        parameters = list({id(p): p for number in numbers for p in [self.parts[number].parameter]}.values())
        known = can_compute(optimizer)
        owned = ids_of(optimizer)
        short = [p for p in parameters if is_short(p) and id(p) in owned]
        self._kept = {id(p): p.detach().clone() for p in parameters if not is_short(p)}
        self._gradients = {}
        if scale is not None or not known:
            # Gradients may be others after the step.
            factor = 1.0 if scale is None else scale
            self._gradients = {id(p): p.grad.detach() / factor for p in parameters if p.grad is not None}
        if not known:
            unknown = {id(p) for p in short}
            self.unknown |= {part.name: None for part in self.parts if id(part.parameter) in unknown}
        elif short:
            for part, steps, ends in computed_steps(optimizer, short):
                self._add_updates(numbers, _by_id(part, steps), _by_id(part, ends))
                moving = {key: step != 0 for key, step in _by_id(part, steps).items()}
                self._add_counts("moving", moving)
                self._moving |= moving
            self._short = {id(p): p.detach().clone() for p in short}

    def after(self) -> None:
        """Take in what the step has done."""
        versions, self._versions = self._versions, {}
        now = self._versions_of(set(versions))
        moved = {key for key, version in versions.items() if now[key] != version}
        self.moved |= {part.name: None for part in self.parts if id(part.parameter) in moved and part.rows is None}
        short, self._short = self._short, {}
        moving, self._moving = self._moving, {}
        ends = {id(part.parameter): part.parameter.detach() for part in self.parts}
        if short:
            there = [n for n, part in enumerate(self.parts) if id(part.parameter) in short]
            self._columns.add("stored", there, l2_norms([self._of(n, self.parts[n].parameter) for n in there]))
            # What float32 leaves alone, rounding may change, as where a step in 16 bits is none in float32.
            self._add_counts("changed", {key: (ends[key] != short[key]) & moves for key, moves in moving.items()})
        kept, self._kept = self._kept, {}
        if kept:
            # In place in this rank's parts of DTensors, which do not mix with other tensors.
            steps = [_own(tensor) for tensor in kept.values()]
            torch._foreach_neg_(steps)
            torch._foreach_add_(steps, [_own(ends[key]) for key in kept])
            numbers = [n for n, part in enumerate(self.parts) if id(part.parameter) in kept]
            self._add_updates(numbers, kept, ends)
        self._gradients = {}

    def take(self) -> Columns:
        """What the steps since the last call have shown."""
        columns, self._columns = self._columns, Columns()
        return columns

    def notes(self) -> list[str]:
        """Name the parameters whose updates are not recorded."""
        notes = []
        if self.unknown:
            notes.append(
                f"{some(self.unknown)}: the update of weights in 16 bits is not recorded, since the step of their "
                "optimizer cannot be made on float32 copies; that of optimizers of torch.optim can"
            )
        if self.moved:
            notes.append(
                f"{some(self.moved)}: changed by a step though frozen or without a gradient, as by a .grad that stays "
                "or by momentum: these updates are not recorded, nor counted in the total and predicted_loss_change"
            )
        return notes

    def _add_updates(self, numbers: Sequence[int], steps: Mapping[int, Tensor], ends: Mapping[int, Tensor]) -> None:
        places = [n for n in numbers if id(self.parts[n].parameter) in steps]
        keys = [id(self.parts[n].parameter) for n in places]
        updates = [self._of(n, steps[key]) for n, key in zip(places, keys, strict=True)]
        self._columns.add("update", places, l2_norms(updates))
        self._columns.add("after", places, l2_norms([self._of(n, ends[k]) for n, k in zip(places, keys, strict=True)]))
        pairs = [(n, u, g) for n, u in zip(places, updates, strict=True) if (g := self._gradient(n)) is not None]
        if pairs:
            there, left, right = zip(*pairs, strict=True)
            self._columns.add("product", there, inner_products(left, right))

    def _add_counts(self, name: str, values: Mapping[int, Tensor]) -> None:
        """Add the number of elements of each part that are not 0 in values of whole parameters."""
        places = [n for n, part in enumerate(self.parts) if id(part.parameter) in values]
        counted = [self._of(n, values[id(self.parts[n].parameter)]) for n in places]
        self._columns.add(name, places, nonzero_counts(counted))

    def _gradient(self, number: int) -> Tensor | None:
        parameter = self.parts[number].parameter
        gradient = self._gradients.get(id(parameter), parameter.grad)
        return None if gradient is None else self._of(number, gradient)

    def _versions_of(self, keys: Set[int]) -> dict[int, int]:
        """How often parameters were changed in place, by id; their values would have to be kept to be compared."""
        parameters = {id(part.parameter): part.parameter for part in self.parts}
        return {key: p._version for key, p in parameters.items() if key in keys and not p.is_inference()}

    def _there(self, numbers: Sequence[int]) -> tuple[list[int], list[Tensor]]:
        """The parts that have gradients, by number, and these."""
        found = [(n, g) for n in numbers if (g := self.parts[n].parameter.grad) is not None]
        return [n for n, _ in found], [self._of(n, gradient.detach()) for n, gradient in found]

    def _of(self, number: int, tensor: Tensor) -> Tensor:
        part, tensor = self.parts[number], tensor.detach()
        if part.rows is not None and tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        return part.of(tensor)


def _is_trained(part: Part) -> bool:
    return part.parameter.requires_grad


def _own(tensor: Tensor) -> Tensor:
    """Return what this rank has of a tensor, in the same memory."""
    own: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own


def _by_id(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> dict[int, Tensor]:
    return {id(parameter): value for parameter, value in zip(parameters, values, strict=True)}
