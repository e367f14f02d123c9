"""`gl.watch`: what happens in every layer, step by step, from outside of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, get_args

import pandas as pd
from torch import Tensor, nn
from torch.autograd.variable import Variable
from torch.optim import Optimizer

from gradlab.errors import GradlabError, UsageError
from gradlab.facts import name_of
from gradlab.probes.capture import refuse_captured_step
from gradlab.probes.coverage import coverage_of, depth_of
from gradlab.probes.hooks import Probe, in_backward
from gradlab.probes.ranks import TIMEOUT, Ranks
from gradlab.probes.replaced import Places
from gradlab.probes.schedule import Schedule
from gradlab.probes.selection import Selection
from gradlab.probes.watch.alerts import Alerts, OnAlert
from gradlab.probes.watch.evaluation_modes import EvaluationModes
from gradlab.probes.watch.live import LiveView
from gradlab.probes.watch.recorder import MEASURES, USUAL, Measure, StepRecorder
from gradlab.probes.watch.steps import OptimizerSteps, unwrapped
from gradlab.probes.watch.writer import RecordWriter
from gradlab.results.dynamics.result import DynamicsResult
from gradlab.sinks import AnySink

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.distributed import ProcessGroup


DeadUnits = Literal["of the step", "since the last record"]
"""Which inputs a dead unit is 0 for."""


class Watch(Probe):
    """Records what happens in every layer while a model trains; the training loop stays as it is.

        with gl.watch(model, optimizer, every=50) as watch:
            for images, labels in loader:
                optimizer.zero_grad()
                loss_function(model(images), labels).backward()
                optimizer.step()
        watch.result().to_frame()

    It hangs on the optimizer's own hooks, and measures the steps that the schedule says: all passes since the step
    before, so that accumulated micro-batches are one, but none of which the backward pass failed. Between these there
    are no hooks on the model. A step that a GradScaler skips is none, and forward passes without gradients, as of
    validation, do not count. A step that it has a fused optimizer skip, on the device, counts as one without a record.

    Columns of the result: step (steps that the optimizer made before), layer, index (place in the order of
    execution), block, statistic, value. Of layers, as `measure` says:

    - `responses`: `response_std` and `response_mean` of the layer's output after its normalization, `response_max`
      (the largest absolute value), `non_finite_fraction` where there is any.
    - `activations`: of what a function of torch makes of that response, `zero_fraction` (exact zeros), `dead_units`
      (the share of units that are 0 for all inputs of the step) and, of bounded ones, `saturated_fraction` (within a
      hundredth of the range from its ends; of a softmax, rows with all but a hundredth in one place).
    - `response_gradients`: `response_grad_rms`, over all elements.
    - `gradients`: `grad_norm` and `grad_rms` of the weight's gradient as the backward passes leave it, before any
      clipping and without the scale of mixed precision; `weight_norm`, before the step; `relative`, the one over the
      other.
    - `updates`: `update_norm`, `update_ratio` (over the weight's norm), `update_cosine` (with the negative gradient
      that the optimizer is given), `angular_update` (in radians). Of weights in 16 bits they are of the update that
      the optimizer computes, before rounding; `cancelled_fraction` is the share of the elements to be changed that
      rounding leaves as they were.
    - `noise`: of the model, `gradient_variance` and `gradient_square` of accumulated micro-batches; see
      `DynamicsResult.noise_scale`.

    Of the whole model, which is layer `total`: `loss` (what `backward()` was called on, summed over the step),
    `learning_rate` (with several groups `learning_rate[0]`, …), the norms above of all parameters,
    `grad_norm_clipped` (as the optimizer is given it), `predicted_loss_change` (to first order), and `left_grad_norm`,
    of gradients to which backward passes add, as nobody has cleared them since the step before, where there are any.

    Where several optimizers step after one another without a pass between them, their steps are one. Otherwise each
    has records of its own, of its own layers, and the total of the i-th is `total[i]`.

    In a distributed run, each record is joined over the ranks: the schedule is a function of the step's number alone,
    so that all of them record the same steps, and every rank's result has the examples of all. Gradients of responses
    are those of the mean of the ranks' losses, and logged values are averaged. The first rank writes to sinks and
    warns; `raise` and a function are for every rank.

    Args:
        model: What is trained.
        optimizer: What trains it, or several; wrappers of other libraries are seen through.
        every: Measure every so many steps, or where a function of the step's number says so (`gl.log_spaced`).
        first: Measure the first so many steps as well.
        layers: What to measure: names or globs, a class, a predicate, or None for every layer with a weight.
        measure: Of the groups above; by default all but `noise`.
        scaler: The GradScaler of mixed precision; by default the one that calls the optimizer's step.
        sinks: Who gets the rows of each record as it is made: paths of files (`.csv`, `.jsonl`, `.parquet`), objects
            with `write(rows)` such as those of `gl.sinks`, or functions of rows.
        on_alert: What is done, once each, where a record shows what `findings` of the result would say: `warn`, `raise`
            (out of the optimizer's step), or a function of the finding. Each record then takes some ten milliseconds.
        live: Whether to show each record while the model trains: in a terminal, in a notebook, or else line by line.
        dead_units: Which inputs a dead unit is 0 for: all `of the step`, or all `since the last record`. The latter
            needs hooks at every step, which cost a few percent of a step (see the costs in the documentation).
        start: Steps that the optimizers made before.
        process_group: The ranks to join; None for all of them, where torch.distributed is initialized.
        local: Whether to record this rank alone, which the result then says.
        timeout: Seconds for which a record waits for the other ranks, until an error names those that are missing.

    Raises:
        UsageError: For anything else, and where no layer is selected.
    """

    in_traces = False

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer],
        every: Schedule = 50,
        *,
        first: int = 0,
        layers: Selection = None,
        measure: Sequence[Measure] = USUAL,
        scaler: GradScaler | None = None,
        sinks: Iterable[AnySink] = (),
        on_alert: OnAlert | None = None,
        live: bool = False,
        dead_units: DeadUnits = "of the step",
        start: int = 0,
        process_group: ProcessGroup | None = None,
        local: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        ranks = Ranks(process_group, local, timeout)
        super().__init__(model, ranks)
        if not callable(every) and every < 1:
            raise UsageError(f"every is a number of steps from 1 on, not {every}")
        if dead_units not in get_args(DeadUnits):
            raise UsageError(f"dead_units is {' or '.join(map(repr, get_args(DeadUnits)))}, not {dead_units!r}")
        if self._compiled and dead_units != "of the step":
            raise UsageError(
                "dead_units='since the last record' needs hooks at every step, and compiled code calls none"
            )
        self.every, self.first = every, first
        self.optimizers = unwrapped(optimizer)
        self.steps = [start] * len(self.optimizers)
        told = ranks.is_first or on_alert != "warn"
        alerts = [] if on_alert is None or not told else [Alerts(on_alert, name_of(self.model))]
        self._live = LiveView(name_of(self.model)) if live and ranks.is_first else None
        views = [] if self._live is None else [self._live]
        self._writer = RecordWriter(self.model, [*(sinks if ranks.is_first else ()), *views, *alerts])
        self._recorder = StepRecorder(
            self.model,
            self.optimizers,
            self._writer,
            layers=layers,
            measure=_measures(measure),
            scaler=scaler,
            since_last=dead_units != "of the step",
            ranks=ranks,
        )
        parts = [part for row in self._recorder.rows.values() for part in row.parts]
        self._places = Places(self.model, parts)
        self._modes = EvaluationModes(self.model, self.optimizers)
        self._hooks: ExitStack | None = None
        self._between: ExitStack | None = None

    def log(
        self,
        *,
        again: Callable[[], Tensor] | None = None,
        part: Callable[[], Tensor] | None = None,
        share: float = 0.5,
        **values: Tensor | float,
    ) -> None:
        """Add numbers to the record of the step under way, before the optimizer's step.

            watch.log(part=lambda: F.cross_entropy(model(x[:16]), y[:16]), share=16 / 128)

        At steps that are not measured this does nothing, and calls neither function.

        Args:
            again: Computes the loss of this step's batch once more, after the step: `actual_loss_change` is then
                recorded. It is called without gradients, and leaves buffers and random numbers as they were.
            part: Computes the mean loss of a part of this step's batch, for the noise scale by two batch sizes. It
                costs a forward and a backward pass of the part, which leave gradients, buffers and random numbers as
                they were.
            share: The examples of that part over those of the batch.
            **values: By name; `loss` takes the place of what `backward()` was called on.

        Raises:
            UsageError: If `part` is given and noise is not measured, or if the share is not between 0 and 1.
        """
        if part is not None and "noise" not in self._recorder.measure:
            raise UsageError('part= is for the noise scale: give gl.watch measure=[…, "noise"]')
        if not 0 < share < 1:
            raise UsageError(f"share is that of the part's examples among those of the batch, below 1, not {share}")
        if self._hooks is not None:
            if part is not None:
                self._recorder.log_part(part, share)
            self._recorder.log(values, again)

    def result(self, network: str | None = None) -> DynamicsResult:
        """What was recorded so far.

        Args:
            network: What to call the model; by default its name from `gl.build`, else its class.

        Raises:
            GradlabError: When no step was measured.
        """
        self._recorder.write_arrived()
        if not len(self._writer.log):
            raise GradlabError(
                f"the watch has measured no step of the {max(self.steps):,} that its optimizers made: let them step "
                "inside the `with` block, at steps that every= names"
            )
        name = network or name_of(self.model)
        frame = self._writer.log.frame()
        frame.insert(0, "network", pd.Categorical([name]).repeat(len(frame)))
        coverage = coverage_of(self.model, self._recorder.rows.values()).as_record()
        facts = {"network": name, "depth": depth_of(self.model), "coverage": coverage}
        if self._stack is not None:
            self._places.look()
        notes = [*self._recorder.notes(), *self._places.notes(), *self._modes.notes()]
        return DynamicsResult(frame, {"networks": [facts]}, notes)

    def _enter(self, stack: ExitStack) -> None:
        if self._live is not None:
            stack.callback(self._live.close)
        stack.callback(self._leave)
        self._recorder.attach(stack, order=not self._compiled)
        OptimizerSteps(self.optimizers, self._before, self._after).attach(stack)
        self._switch()

    def _attach(self, stack: ExitStack) -> None:
        self._recorder.attach_to_passes(stack)

    @property
    def _needs_hooks(self) -> bool:
        # Gradients and weights are measured without hooks that compiled code would pass by.
        return self._recorder.responses is not None

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            self._recorder.give_up()
        super().__exit__(*exception)

    def _leave(self) -> None:
        self._places.look()
        self._switch_off()
        self._leave_units()
        self._recorder.close()
        self._recorder.write_arrived()
        self._writer.close()

    def _is_due(self, place: int) -> bool:
        step = self.steps[place]
        return step < self.first or (self.every(step) if callable(self.every) else step % self.every == 0)

    def _before(self, place: int) -> None:
        refuse_captured_step()
        if self._hooks is not None:
            self._places.check("gl.watch")
            step, due = self.steps[place], self._is_due(place)
            if due:
                self._modes.look(step)
            self._recorder.before(place, step, due)

    def _after(self, place: int) -> None:
        if self._hooks is not None:
            self._recorder.after(place)
        self.steps[place] += 1
        self._switch()
        if self._hooks is not None:
            self._recorder.stepped(place)

    def _switch(self, *, ended: bool = False) -> None:
        """Have hooks on the model while a step is under way that is measured, and no others.

        Args:
            ended: Whether the backward pass under way has come to its end.
        """
        if ended and self._stack is None:
            return
        due = any(map(self._is_due, range(len(self.optimizers))))
        if not due:
            self._switch_off()
            self._follow_units()
        elif self._hooks is None and in_backward() and not ended:
            # What remains of the pass belongs to the step that was made within it.
            Variable._execution_engine.queue_callback(lambda: self._switch(ended=True))
        elif self._hooks is None:
            self._leave_units()
            with ExitStack() as stack:
                self._attach_to_passes(stack)
                self._hooks = stack.pop_all()

    def _follow_units(self) -> None:
        """Have hooks on the model that see which units are not 0, where units are followed from record to record."""
        if self._recorder.between is not None and self._between is None:
            with ExitStack() as stack:
                self._recorder.between.attach(stack)
                self._between = stack.pop_all()

    def _leave_units(self) -> None:
        if self._between is not None:
            hooks, self._between = self._between, None
            hooks.close()

    def _switch_off(self) -> None:
        if self._hooks is not None:
            hooks, self._hooks = self._hooks, None
            hooks.close()


def _measures(measure: Sequence[Measure] | str) -> frozenset[Measure]:
    names = [measure] if isinstance(measure, str) else list(measure)
    if unknown := [name for name in names if name not in MEASURES]:
        raise UsageError(f"what can be measured is {', '.join(MEASURES)}, not {', '.join(map(str, unknown))}")
    return frozenset(names)  # type: ignore[arg-type]
