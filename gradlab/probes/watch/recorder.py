"""Puts the records of steps together: what passes, gradients, weights and the loop itself have to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradlab.probes.execution import ExecutionOrder
from gradlab.probes.hooks import in_backward
from gradlab.probes.meeting import ShardMeeting
from gradlab.probes.ranks import Ranks
from gradlab.probes.selection import Selection, select_rows
from gradlab.probes.tensor_layout import Layout
from gradlab.probes.watch.activations import UnitActivity
from gradlab.probes.watch.backward import BackwardWatch
from gradlab.probes.watch.layer_values import layer_values, total_values
from gradlab.probes.watch.left_gradients import LeftGradients
from gradlab.probes.watch.logged import Logged, gradient_norm_of
from gradlab.probes.watch.merging import Unjoined, joined_values
from gradlab.probes.watch.micro_batches import MicroBatches
from gradlab.probes.watch.missing import Missing
from gradlab.probes.watch.parameters import Columns, ParameterWatch
from gradlab.probes.watch.piece import Fetch, Piece
from gradlab.probes.watch.record import Owners, StepRecord, ids_of, learning_rates, scalars
from gradlab.probes.watch.response_values import activation_piece, gradient_piece, moment_piece
from gradlab.probes.watch.responses import ResponseWatch, Window
from gradlab.probes.watch.shares import Found, Value, values_of
from gradlab.probes.watch.steps import calling_scaler, scale_of
from gradlab.probes.watch.writer import RecordWriter, in_order
from gradlab.results.dynamics.names import TOTAL

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler

Measure = Literal["responses", "activations", "response_gradients", "gradients", "updates", "noise"]
MEASURES: tuple[Measure, ...] = ("responses", "activations", "response_gradients", "gradients", "updates", "noise")
"""What may be measured."""

USUAL = MEASURES[:-1]
"""What is measured by default: noise keeps a copy of all gradients."""


class StepRecorder:
    """Records the steps that it is told to.

    Args:
        model: What is trained.
        optimizers: What trains it.
        writer: Where records go.
        layers: See `Watch`.
        measure: See `Watch`.
        scaler: See `Watch`.
        since_last: Whether units are dead that are 0 in all passes since the last record.
        ranks: The processes over which records are joined.

    Attributes:
        rows: The weights that are measured, by layer.
        responses: What follows forward passes; None where nothing of them is measured.
        between: What follows the units of activations at steps that are not measured; None if nothing does.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        writer: RecordWriter,
        *,
        layers: Selection,
        measure: frozenset[Measure],
        scaler: GradScaler | None,
        since_last: bool = False,
        ranks: Ranks,
    ) -> None:
        self.model, self.optimizers, self.writer = model, optimizers, writer
        self.measure, self.scaler, self.ranks = measure, scaler, ranks
        self.rows = select_rows(model, layers)
        self.responses: ResponseWatch | None = None
        if measure & {"responses", "activations", "response_gradients"}:
            self.responses = ResponseWatch(model, layers, measure, self._pass_begun)
        self.between: ResponseWatch | None = None
        if since_last and "activations" in measure:
            self.between = ResponseWatch(model, layers, {"activations"}, lambda: None, UnitActivity)
        self._owners = Owners(model, optimizers)
        self._parameters = ParameterWatch(model, self.rows, updates="updates" in measure)
        self._executed = ExecutionOrder(model, self.rows)
        self._left = LeftGradients([*model.parameters()])
        self._backward = BackwardWatch(model, self._pass_ended, self._restarted, self._left.pass_begun)
        self._micro = MicroBatches(list(model.parameters())) if "noise" in measure else None
        self._record: StepRecord | None = None
        self._arriving: list[tuple[StepRecord, Fetch]] = []
        self._missing = Missing()
        self._logged = Logged()
        self._unjoined = Unjoined()
        self._shards = ShardMeeting(model.parameters(), ranks.timeout)

    def attach(self, stack: ExitStack, *, order: bool) -> None:
        """Register what stays on between measured steps: nothing, once the order of execution is known."""
        if order and self.responses is None:
            self._executed.attach(stack)

    def attach_to_passes(self, stack: ExitStack) -> None:
        """Register the hooks of a measured step, their removal on the stack."""
        self._forget()
        if self.responses is not None:
            self.responses.attach(stack)
        self._backward.attach(stack)
        self._left.forget()

    def log_part(self, part: Callable[[], Tensor], share: float) -> None:
        """Take in the gradient of a part of the batch; see `Watch.log`."""
        if self._micro is not None:
            with nullcontext() if self.responses is None else self.responses.resting():
                self._micro.compare(gradient_norm_of(self.model, part), share)

    def log(self, values: Mapping[str, Tensor | float], again: Callable[[], Tensor] | None) -> None:
        """See `Watch.log`."""
        self._logged.add(values, again)

    def _pass_begun(self) -> None:
        self._backward.settle()
        if self._record is not None and self._record.waits:
            # Its backward pass has failed, and this one belongs to another step.
            self.close()
        failed = (self.responses is not None and self.responses.undo_failed()) or self._backward.failed
        if self._backward.undone or (failed and not self._backward.passes):
            # The scaler has skipped the step of these passes, or their gradients were thrown away.
            self._forget()

    def _restarted(self) -> None:
        """The gradients of earlier passes were thrown away after the forward pass of the one under way."""
        if self.responses is not None:
            self._missing.restarted += 1
            self.responses.drop_earlier_gradients()
        if self._micro is not None:
            self._micro.reset()

    def _pass_ended(self) -> None:
        self._left.look()
        if self._record is not None and self._record.waits:
            self._end_waiting(self._record)
            return
        if self.measure & {"gradients", "updates", "noise"}:
            self._shards.meet("the end of a backward pass at a step that gl.watch measures")
        if self.measure & {"gradients", "updates"}:
            self._parameters.pass_ended()
        if self._micro is not None:
            self._micro.pass_ended()

    def _forget(self) -> None:
        """Forget the passes so far: they belong to no step that is measured."""
        if self.responses is not None:
            self.responses.drop()
        self._backward.reset()
        self._parameters.reset()
        if self._micro is not None:
            self._micro.reset()

    @torch.no_grad()
    def before(self, place: int, step: int, due: bool) -> None:
        """An optimizer is about to change the weights.

        Args:
            place: Which.
            step: Steps that it made before.
            due: Whether this one is measured.
        """
        self._backward.settle()
        fresh = self._backward.passes > 0 or (self.responses is not None and self.responses.window.passes > 0)
        record = self._record
        goes_on = record is not None and record.waits and in_backward()
        if record is not None and ((fresh and not goes_on) or place in record.places or record.step != step):
            self.close()
        if due:
            self._open(place, step, fresh)
        elif fresh:
            self._forget()

    def _open(self, place: int, step: int, fresh: bool) -> None:
        optimizer = self.optimizers[place]
        scale = scale_of(self.scaler or calling_scaler(), optimizer.param_groups[0]["params"][0].device)
        if self._record is None:
            if not fresh:
                self._forget()
            elif not self._backward.passes or in_backward():
                # What an earlier pass has left is not what somebody else, or a pass under way, has put there since.
                self._parameters.reset()
            self._record = StepRecord(step, scale=scale, waits=in_backward())
            if not self._record.waits:
                if self.responses is not None:
                    self.responses.undo_failed()
                self._take_passes(self._record)
        self._record.places.add(place)
        self._record.take_skipping(optimizer)
        if self.measure & {"gradients", "updates"}:
            self._shards.meet("the step of an optimizer that gl.watch measures", step)
            owned, missed = self._owners.parameters(place), self._backward.missed
            self._parameters.before(optimizer, owned, scale, missed=missed)
        if self._record.waits:
            self._left.look()
        self._record.left += self._left.take(ids_of(optimizer))
        self._record.pieces.append(learning_rates(self.optimizers, place))

    def _end_waiting(self, record: StepRecord) -> None:
        """Take in the passes of steps that were made within the last one of them, as soon as it has ended."""
        record.waits = False
        self._take_passes(record)
        if len(record.places) == len(self.optimizers):
            self.close()

    def _take_passes(self, record: StepRecord) -> None:
        """Take in what the passes of this step have shown."""
        scale = record.scale
        window = Window() if self.responses is None else self.responses.take()
        self._missing.take_passes(None if self.responses is None else window, self._backward)
        between = None if self.between is None else self.between.take()
        made = (
            moment_piece(window, lambda layer: self._missing.unresolved.setdefault(layer)),
            activation_piece(window, between, by_unit=len(self.ranks.numbers) > 1),
            gradient_piece(window, scale),
            None if self._micro is None else self._micro.piece(scale),
        )
        record.pieces += [piece for piece in made if piece is not None]
        record.loss = self._backward.loss(scale)
        # The gradients as the last pass left them are kept: another optimizer may step next.
        self._backward.reset()

    @torch.no_grad()
    def after(self, place: int) -> None:
        """An optimizer has stepped."""
        if self._record is None or place not in self._record.places:
            return
        self._parameters.after()
        if self._record.waits:
            return
        # With what a closure has run after its first call.
        self._backward.reset()
        if self.responses is not None:
            self.responses.drop()
        if len(self._record.places) == len(self.optimizers):
            self.close()

    def stepped(self, place: int) -> None:
        """An optimizer has stepped, and hooks may have been registered for the next step."""
        self._left.stepped(ids_of(self.optimizers[place]))

    @torch.no_grad()
    def close(self) -> None:
        """Have the open record written, as soon as its values have arrived."""
        record, self._record = self._record, None
        if record is None:
            return
        if record.waits:
            # An exception has ended the backward pass.
            self._take_passes(record)
        if record.left:
            record.pieces.append(scalars(["left_grad_norm"], [torch.stack(record.left).norm()]))
        columns = self._parameters.take()
        if self.measure & {"gradients", "updates"}:
            self._missing.take_gradients(self.rows, self._parameters.parts, columns)
        if columns.values:
            values = torch.cat([column.to(columns.values[0]) for column in columns.values])
            record.pieces.append(Piece(values, lambda numbers: self._of_parameters(columns, numbers)))
        logged = self._logged.take(self.model, record.loss)
        record.pieces += [scalars([name], [value], of_rank=True) for name, value in logged.items()]
        self.write_arrived()
        self._arriving.append((record, Fetch(record.pieces)))
        if self._arriving[-1][1].is_local:
            self.write_arrived()

    def _of_parameters(self, columns: Columns, numbers: Sequence[float]) -> Iterator[Value]:
        known = columns.read(numbers)
        yield from layer_values(self.rows, self._parameters.parts, known)
        yield from total_values(self._parameters.parts, known)

    def write_arrived(self) -> None:
        """Write the records that were closed; waits for the last one's values, where these lie on a device."""
        arriving, self._arriving = self._arriving, []
        for record, fetch in arriving:
            every = fetch.values()
            found = [part for part in every if self._owners.among(part[0], record.places)]
            self._missing.take(every, found)
            values = self._joined(record.step, found)
            if record.skipped:
                self._missing.skipped += 1
                continue
            if len(record.places) < len(self.optimizers):
                total = f"{TOTAL}[{','.join(map(str, sorted(record.places)))}]"
                values = [(total if layer == TOTAL else layer, name, number) for layer, name, number in values]
            seen = self._executed.ordered() if self.responses is None else self.responses.order
            if not self.writer.knows(seen) or not self.writer.knows(self.rows):
                self.writer.place(in_order(seen, {name: row.module for name, row in self.rows.items()}))
            self.writer.write(record.step, values)

    def _joined(self, step: int, found: list[Found]) -> list[Value]:
        """The values of a record over the examples of all ranks, which every rank calls for at the same steps."""
        layout = Layout() if self.responses is None else self.responses.layout
        told = self.ranks.gather((found, layout), f"the record of step {step:,} by gl.watch")
        if len(told) == 1:
            return values_of(found)
        return joined_values([its for its, _ in told], [its for _, its in told], self.ranks, self._unjoined)

    def give_up(self) -> None:
        """Drop the records that are not written yet, for which other ranks would be waited for in vain."""
        if len(self.ranks.numbers) > 1:
            self._record, self._arriving = None, []

    def notes(self) -> list[str]:
        """What the reader of the records should know."""
        owners = self._owners.notes() if "updates" in self.measure else []
        notes = [*self.ranks.notes(), *self._unjoined.notes(), *owners, *self._parameters.notes()]
        notes += self._missing.notes(gradients="response_gradients" in self.measure)
        if self.responses is not None:
            notes += self.responses.notes()
        return notes
