"""What one step has shown, while it is put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradlab.probes.watch.piece import Piece
from gradlab.probes.watch.shares import Found, MeanShare
from gradlab.results.dynamics.names import TOTAL
from gradlab.results.grouping import some


@dataclass
class StepRecord:
    """An open record.

    Attributes:
        step: Steps that its optimizers made before.
        places: Which optimizers it is of.
        pieces: What was measured so far.
        loss: As it was, without the scale of mixed precision; None where it is not known.
        skipped: Whether the step was skipped, which is known once the pieces have arrived.
        scale: What the loss of the backward passes was multiplied by.
        waits: Whether the backward pass goes on within which the step was made.
        left: Norms of gradients to which its passes have added, and which nobody has cleared since the step before.
    """

    step: int
    places: set[int] = field(default_factory=set)
    pieces: list[Piece] = field(default_factory=list)
    loss: Tensor | None = None
    skipped: bool = False
    scale: Tensor | None = None
    waits: bool = False
    left: list[Tensor] = field(default_factory=list)

    def take_skipping(self, optimizer: Optimizer) -> None:
        """Take in whether a fused optimizer, to which a GradScaler leaves this, is about to skip the step."""
        found: Tensor | None = getattr(optimizer, "found_inf", None)

        def read(numbers: list[float]) -> Iterator[Found]:
            self.skipped |= any(numbers)
            yield from ()

        if found is not None:
            self.pieces.append(Piece(found.detach().clone().reshape(1), read))


def learning_rates(optimizers: Sequence[Optimizer], place: int) -> Piece:
    """The learning rate of every group of an optimizer, as statistics of the whole model.

    Args:
        optimizers: All of them, over whose groups the names count.
        place: Which of them is about to step.
    """
    counts = [len(optimizer.param_groups) for optimizer in optimizers]
    first = sum(counts[:place])
    numbers = range(first, first + counts[place])
    names = ["learning_rate"] if sum(counts) == 1 else [f"learning_rate[{number}]" for number in numbers]
    groups = optimizers[place].param_groups
    rates = [torch.as_tensor(group.get("lr", torch.nan)).detach().reshape(()) for group in groups]
    device = next((rate.device for rate in rates if not rate.is_cpu), rates[0].device)
    return scalars(names, [rate.to(device) for rate in rates])


def scalars(names: Sequence[str], values: Sequence[Tensor], *, of_rank: bool = False) -> Piece:
    """Numbers of the whole model by name, on one device; those of a rank's own batch are averaged over ranks."""

    def read(numbers: list[float]) -> Iterator[Found]:
        for name, number in zip(names, numbers, strict=True):
            yield TOTAL, name, MeanShare(number, 1) if of_rank else number

    wide = torch.float32 if values[0].device.type == "mps" else torch.float64
    return Piece(torch.stack([value.to(wide) for value in values]), read)


class Owners:
    """Which optimizers step the parameters of a layer.

    Args:
        model: Whose layers they are.
        optimizers: Parameters that none of them has count to the first one.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self.model, self.optimizers = model, optimizers
        # Between passes, fully_shard may have whole parameters in the places of those that an optimizer has.
        self._named = [*model.named_parameters()]
        self._all = {id(p) for _, p in self._named}
        self._known: dict[str, frozenset[int]] = {}

    def parameters(self, place: int) -> set[int]:
        """Ids of the parameters that count to an optimizer, as its groups are now."""
        own = ids_of(self.optimizers[place])
        if place == 0:
            own |= self._all.difference(*map(ids_of, self.optimizers[1:]))
        return own

    def notes(self) -> list[str]:
        """Name the trained parameters that none of the optimizers has, whose updates are those of others."""
        known = set().union(*map(ids_of, self.optimizers))
        missing = [name for name, p in self._named if p.requires_grad and id(p) not in known]
        said = "in no watched optimizer, whose steps add nothing to it: what others add is not measured"
        return [f"{some(missing)}: {said}"] if missing else []

    def among(self, layer: str, places: set[int]) -> bool:
        """Whether a layer counts to some of the optimizers: by its own parameters, or those around it."""
        if len(self.optimizers) == 1 or layer == TOTAL:
            return True
        name = layer.partition(" (call ")[0].partition("[")[0]
        if name not in self._known:
            self._known[name] = self._of(name)
        return bool(self._known[name] & places)

    def _of(self, name: str) -> frozenset[int]:
        sets = [self.parameters(place) for place in range(len(self.optimizers))]
        modules = dict(self.model.named_modules())
        while True:
            parameters = {id(p) for p in modules[name].parameters()} if name in modules else set()
            if found := frozenset(place for place, own in enumerate(sets) if own & parameters):
                return found
            if not name:
                return frozenset(range(len(sets)))
            name = name.rpartition(".")[0]


def ids_of(optimizer: Optimizer) -> set[int]:
    """Ids of the parameters that an optimizer steps."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
