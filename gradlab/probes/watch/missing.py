"""What the records of steps do not have, and the sentences that say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gradlab.probes.gradient_notes import REASONS
from gradlab.probes.watch.backward import BackwardWatch
from gradlab.probes.watch.parameters import Columns
from gradlab.probes.watch.responses import Window
from gradlab.probes.watch.shares import Found
from gradlab.probes.weights import Part, WeightRow
from gradlab.results.grouping import some

Key = tuple[str, str]
"""A layer and a statistic, or a reason and a layer."""


@dataclass
class Missing:
    """What is missing in records.

    Attributes:
        without_forward: The number of steps of which hooks saw no forward pass.
        without_backward: The number of steps whose passes no backward pass followed that adds to gradients.
        without_loss: The number of steps of which a backward pass was seen by gradients of responses alone.
        restarted: The number of steps whose gradients were cleared after the forward pass of their last backward pass.
        swapped: The number of steps of which no backward pass was seen since torch swapped parameters.
        skipped: The number of steps that a GradScaler had a fused optimizer skip.
        unresolved: Names of layers whose std the square of their mean has taken the digits of.
        absent: The number of records without a gradient of a layer, by reason and layer.
        looked: The number of records in which gradients were looked for.
    """

    without_forward: int = 0
    without_backward: int = 0
    without_loss: int = 0
    restarted: int = 0
    swapped: int = 0
    skipped: int = 0
    unresolved: dict[str, None] = field(default_factory=dict)
    absent: Counter[Key] = field(default_factory=Counter)
    looked: int = 0
    _written: set[Key] = field(default_factory=set)
    _measured: dict[Key, None] = field(default_factory=dict)

    def take_passes(self, window: Window | None, passes: BackwardWatch) -> None:
        """Take in how many passes a step had.

        Args:
            window: The forward passes and the gradients of responses; None where they are not followed.
            passes: The backward passes.
        """
        if passes.missed:
            self.swapped += 1
            return
        if window is None:
            return
        forward, gradients, backward = window.passes, len(window.watches), passes.passes
        self.without_forward += not forward
        self.without_backward += bool(forward) and not gradients and not backward
        self.without_loss += bool(gradients) and not backward

    def take(self, every: Iterable[Found], own: Iterable[Found]) -> None:
        """Take in a record.

        Args:
            every: What was measured.
            own: What is recorded of it, which is of the layers that the optimizers of the record step.
        """
        self._written.update((layer, statistic) for layer, statistic, _ in own)
        self._measured.update(dict.fromkeys((layer, statistic) for layer, statistic, _ in every))

    def take_gradients(self, rows: Mapping[str, WeightRow], parts: Sequence[Part], columns: Columns) -> None:
        """Take in which layers have no gradient in a record, where others have one, and why.

        Args:
            rows: What counts as one layer, by name.
            parts: In the order of their numbers.
            columns: What was measured of the parts.
        """
        numbers = {part.key: number for number, part in enumerate(parts)}
        measured = {name: set(there) for name, there in zip(columns.names, columns.parts, strict=True)}
        stepped, reached = measured.get("weight", set()), measured.get("given", set())
        self.looked += 1
        for name, row in rows.items():
            own = {numbers[part.key] for part in row.parts}
            if not any(part.parameter.requires_grad for part in row.parts):
                self.absent["frozen", name] += 1
            elif reached and own & stepped and not own & reached:
                self.absent["not reached", name] += 1

    def notes(self, *, gradients: bool) -> list[str]:
        """Return a sentence on all that is missing.

        Args:
            gradients: Whether gradients of responses are measured.
        """
        notes = [note for reason in ("frozen", "not reached") for note in self._absent(reason)]
        if self.unresolved:
            notes.append(
                f"{some(self.unresolved)}: |mean| is too many times the std for sums of squares; no response_std"
            )
        if self.skipped:
            notes.append(
                f"{self.skipped} steps are left out that a GradScaler had a fused optimizer skip: gradients overflowed"
            )
        if self.without_forward:
            notes.append(
                f"{self.without_forward} steps had no forward pass that hooks could see, as replays of a CUDA graph "
                "have none, or none since the step of another optimizer: nothing of their responses is recorded"
            )
        if self.without_backward and gradients:
            notes.append(
                f"{self.without_backward} steps had no backward pass that adds to gradients, as torch.autograd.grad "
                "makes none: they have no loss and no response_grad_rms"
            )
        if self.without_loss:
            notes.append(
                f"{self.without_loss} steps had a backward pass that failed or had not ended, or that adds to no "
                "gradient of the model's own parameters, as those of an ensemble by torch.func: they have no loss"
            )
        if self.swapped:
            notes.append(
                f"{self.swapped} steps had no backward pass that hooks could see, as torch swapped parameters when the "
                "model was moved or converted: they have no loss and no gradient but grad_norm_clipped; move the model "
                "before the watch begins"
            )
        if self.restarted:
            notes.append(
                f"{self.restarted} steps had gradients cleared or changed between their backward passes, after the "
                "forward pass of the next: loss and gradients are of what followed, and responses of all passes; "
                "clear gradients before the forward pass"
            )
        if left := dict.fromkeys(key[0] for key in self._measured if key not in self._written):
            notes.append(
                f"{some(left)}: ran before the step of another optimizer, whose records are of its own layers, and not "
                "between that and the step of their own: run them after the other step to have their responses recorded"
            )
        return notes

    def _absent(self, reason: str) -> Iterator[str]:
        for when in ("", ", at some of the records"):
            named = [
                layer for (why, layer), n in self.absent.items() if why == reason and (n < self.looked) == bool(when)
            ]
            if named:
                yield f"{some(named)}: {REASONS[reason]}{when}"
