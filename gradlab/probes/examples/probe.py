"""The norms of single examples' parameter gradients, and statistics derived from them, in one backward pass."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, NothingSeen, UsageError
from gradlab.probes.accumulation import after_accumulation
from gradlab.probes.coverage import coverage_of, description_of
from gradlab.probes.examples.backward_passes import BackwardPasses
from gradlab.probes.examples.forward_passes import ForwardPasses
from gradlab.probes.examples.merging import RankStep, batch_notes, merged_steps
from gradlab.probes.examples.pieces import Pieces
from gradlab.probes.examples.rows import REST, MeasuredStep, example_columns, example_frame
from gradlab.probes.examples.shards import Shards, refuse_later_shards, refuse_split_layers
from gradlab.probes.gradient_notes import gradient_notes, shared_notes
from gradlab.probes.parameter_gradients import ParameterGradients
from gradlab.probes.ranks import TIMEOUT, Ranks
from gradlab.probes.schedule import Schedule, StepProbe
from gradlab.probes.selection import Selection, select_rows
from gradlab.probes.streams import wait_for_all
from gradlab.probes.watch.backward import BackwardWatch
from gradlab.probes.weights import Parameters
from gradlab.results.gradients.result import TOTAL, GradientsResult
from gradlab.stats import l2_norms

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.distributed import ProcessGroup

Reduction = Literal["mean", "sum"]


class ExampleGradients(StepProbe):
    """Measures the norm of the parameter gradient of each example of a batch, by layer and in total.

        model.eval()
        with gl.ExampleGradients(model) as probe:
            probe.backward(F.cross_entropy(model(images), labels))  # or loss.backward(), which is slower
            probe.step()
        probe.examples()  # a norm for each example and layer
        probe.result()    # variance, noise scale, diversity and mean cosine by layer and in total

    The backward pass of each function that receives a parameter, in any module, is separated by examples where it
    happens: for convolutions by matrix products, or by one convolution with the examples as groups; for linear layers
    and the projections of attention by outer products; for embeddings, normalizations, positions and scales from the
    values that were looked up or broadcast; and for any other function by its own derivative, one example at a time.
    Weights computed from parameters are traced back to these. No example's gradient is kept beyond its layer.

    An example's gradient is that of its own loss, which depends on its row of the model's output: the part of the
    gradient that flows through this row, times the number of examples if the loss is a mean. In the first backward
    pass of each kind, the probe makes two others through the same graph with scaled examples, without gradients of
    parameters. They show where the examples lie in every tensor, and whether the model couples them, as batch
    normalization by batch statistics does; then no example has a gradient of its own, and an error is raised.
    Parameters whose gradient cannot be separated (experts that see tokens of several examples, functions with a
    user-defined backward pass) need one backward pass per example, which is exact but slow.

    Every gradient is compared with the sum over examples. If they disagree, as with a penalty on a weight in the loss,
    an error names the parameter. A step may contain several batches; with `reduction="mean"` the loss of each must
    then be divided by their number, as Lightning and Trainer do.

    In a distributed run with `DistributedDataParallel` or `fully_shard`, `result` and `examples` are calls that every
    rank makes, and the batches of all ranks, in their order, are those of one step. The loss is the mean of the ranks'
    losses, whose gradient the parameters get; the division by the number of ranks is done for you. Parameters that
    `fully_shard` splits are whole while their module runs, where gradients are separated; `step` is then a call that
    every rank makes, and the two other passes are made in every measured step.

    Args:
        model: Any `torch.nn.Module` whose inputs and outputs have the examples as their first dimension.
        layers: The layers whose weights are measured (see `select_rows`), which then also make up the total; None for
            rows of all weights and a total over all parameters.
        reduction: The reduction of the examples' losses in the loss, `mean` or `sum`.
        every: The number of steps from one measurement to the next, or a predicate of the step number (`log_spaced`).
        scaler: The GradScaler of mixed-precision training, whose scale is divided out.
        total_cosine: Whether the total has a mean cosine. It takes the products of every two examples' gradients, whose
            cost grows with the square of the batch.
        process_group: The ranks to merge; None for all of them, where torch.distributed is initialized.
        local: Whether to measure this rank's own loss and examples alone, which the result then says.
        timeout: Seconds for which a result waits for the other ranks, until an error names those that are missing.

    Raises:
        UsageError: If no layer with parameters is selected, or `reduction` is neither `mean` nor `sum`, or
            tensor parallelism splits a layer, so that no rank has an example's whole gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Selection = None,
        *,
        reduction: Reduction = "mean",
        every: Schedule = 1,
        scaler: GradScaler | None = None,
        total_cosine: bool = True,
        process_group: ProcessGroup | None = None,
        local: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(model, Ranks(process_group, local, timeout), every, scaler)
        refuse_split_layers(self.model)
        if reduction not in ("mean", "sum"):
            raise UsageError(f"reduction is mean or sum, as of the loss, not {reduction!r}")
        self.reduction = reduction
        self.layers = select_rows(self.model, layers)
        parts: Parameters = "weights" if layers is not None else "all"
        self._norms = ParameterGradients(model, layers, parameters=parts, timeout=timeout)
        self._pieces = Pieces(self.model, self._norms.layers.values(), self.layers)
        self._backward = BackwardPasses(self._pieces, Shards(self.model, self._pieces))
        self._forward = ForwardPasses(self.model, self._pieces, self._backward, lambda: self.due, total_cosine)
        self._steps: list[RankStep] = []
        self._passes = BackwardWatch(self.model, self._averaged)
        self._averages: Tensor | None = None

    def _attach(self, stack: ExitStack) -> None:
        refuse_split_layers(self.model)
        refuse_later_shards(self.model, self._pieces)
        self._norms.scaler = self.scaler
        stack.enter_context(self._norms)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        waited_for = len(self.ranks.numbers) > 1 and not self._pieces.sharded
        self._backward.left.states.by_version = waited_for or not distributed
        if waited_for:
            self._passes.attach(stack)
        self._forward.attach(stack)
        backward = self._backward
        backward.checks.attach(stack, lambda: self.due and backward.counts())
        stack.callback(backward.joined.clear)
        for i in self._pieces.chosen:
            after_accumulation(stack, self._pieces.parameters[i], partial(backward.accumulated, i))

    def _averaged(self) -> None:
        """Take the norms of the gradients when a backward pass is over and data parallelism has averaged them."""
        if not self.due:
            return
        self._backward.left.take_again()
        there = [(piece, part) for piece, part in enumerate(self._pieces.parts) if part.parameter.grad is not None]
        found = l2_norms([part.of(part.parameter.grad) for _, part in there if part.parameter.grad is not None])
        self._averages = found.new_zeros(len(self._pieces.parts))
        self._averages[[piece for piece, _ in there]] = found

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Replace `loss.backward()` by a faster pass, in which gradients are the sums over examples.

        Autograd would compute the gradients of convolutions, linear layers and others a second time. The sums differ
        from its results by rounding; all other gradients, and those of parameters with hooks or with uses that the
        probe does not see, come from autograd. For the first pass of each kind, on steps that are not measured, in
        distributed training and with reentrant activation checkpointing, this is the same as `loss.backward()`.

        Args:
            loss: A tensor with one element.
            retain_graph: Whether to retain the graph, as in `Tensor.backward`.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        measured = self._stack is not None and self.due and not distributed
        if not measured or not self._backward.run(loss, retain_graph):
            loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _measure(self) -> None:
        self._backward.forget_failed()
        waiting = [batch for batch in self._backward.batches if batch.early]
        batches = [batch for batch in self._backward.batches if not batch.empty]
        self._backward.batches.clear()
        if waiting:
            self._backward.checks.forget()
            raise GradlabError(
                f"{type(self.model).__name__} has weights beyond its last output with a row for each of "
                f"{waiting[0].examples} examples: return the logits, with the examples as the first dimension"
            )
        self._backward.checks.all_seen(self._pieces.names)
        device = self._pieces.parameters[0].device
        scale = self._scale(device)
        measured = [batch.measured(scale) for batch in batches]
        if len(batches) > 1 and not self._pieces.sharded:
            self._backward.refuse_unheard({piece for batch in measured for piece in batch.pieces})
        self._norms.steps = self.steps
        self._norms.step()
        joined = None
        if len(batches) > 1 and not self._pieces.sharded:
            missing = torch.zeros((), dtype=torch.float64, device=device)
            joined = (
                torch.stack(
                    [self._backward.joined.get(piece, missing).to(device) for piece in range(len(self._pieces.parts))]
                )
                / scale
            )
        self._backward.joined.clear()
        differences, checked = self._backward.checks.taken(device)
        left, stale = self._backward.left, self._forward.stale
        undone = left.said()
        step = MeasuredStep(
            self.steps, measured, joined, left.remaining if undone else stale, differences, checked, undone
        )
        left.begin()
        if device.type == "cpu":
            try:
                self._check(step)
            except GradlabError:
                self._norms.forget_last()
                raise
        if self._pieces.sharded and len(self.ranks.numbers) > 1:
            self._averaged()
        averages = None if self._averages is None else self._averages / scale
        self._steps.append(RankStep(step, averages))
        self._averages = None
        self._passes.reset()

    def result(self, network: str | None = None) -> GradientsResult:
        """Return the measurement so far: one row per weight and step in order of execution, and one for the total.

        To the columns of gradients it adds examples, example_norm (the mean of their norms), variance (tr Σ over the
        batch, unbiased), gradient_square (|G|², unbiased), noise_scale (their ratio; McCandlish et al. 2018,
        arXiv:1812.06162, App. A.1), diversity (Σ‖g_i‖²/‖Σ g_i‖²) and mean_cosine (between the gradients of two
        examples of one batch). These refer to the examples' own gradients, whatever the reduction; grad_norm is that
        of `.grad`, as in `ParameterGradients`. All examples of a step are pooled, whatever the number of batches and
        of ranks.

        Args:
            network: The name of the model in the result; by default its name from `gl.build`, or its class.

        Raises:
            GradlabError: If no step was measured, or a gradient was not the sum over examples.
        """
        by_rank = self._by_rank("result")
        steps = {step.step: step for step in self._merged(by_rank)}
        rows: list[dict[str, Any]] = []
        places: dict[int, int] = {}
        for row in self._norms.rows():
            if row["layer"] in self._pieces.rows:
                step = row["step"]
                places[step] = places.get(step, 0) + 1
                examples = example_columns(steps[step], self._pieces.rows[row["layer"]], self.reduction)
                rows.append(row | examples | {"index": places[step]})
        for total in self._norms.totals():
            trainable = self._pieces.trainable
            numel = {"numel": sum(self._pieces.parts[piece].numel for piece in trainable)}
            examples = example_columns(steps[total["step"]], [*trainable, REST], self.reduction)
            rows.append({"layer": TOTAL, "kind": TOTAL, "index": None} | total | examples | numel)
        facts = {
            "description": description_of(self.model),
            "coverage": coverage_of(self.model, self.layers.values()).as_record(),
        }
        batches = batch_notes(by_rank, [*steps.values()], self.reduction, self._pieces.sharded)
        told = [*batches, *self._notes(), *self._added()]
        notes = [*gradient_notes(rows), *shared_notes(self.layers.values()), *told, *self.ranks.notes()]
        return GradientsResult.from_rows(self._name(network), rows, notes, facts)

    def examples(self) -> pd.DataFrame:
        """Return the norms, with columns step, layer, example (from 0, in the order of the batches) and norm.

        The rows of the layer `total` are for all measured parameters together.

        Raises:
            GradlabError: If no step was measured, or a gradient was not the sum over examples.
        """
        steps = self._merged(self._by_rank("examples"))
        trainable = self._pieces.trainable
        order = dict.fromkeys(row["layer"] for row in self._norms.rows())
        layers = {name: self._pieces.rows[name] for name in order if name in self._pieces.rows}
        return example_frame(steps, {**layers, TOTAL: [*trainable, REST]}, self.reduction)

    def _by_rank(self, call: str) -> list[list[RankStep]]:
        """Return the steps of every rank, copied to the CPU in one transfer."""
        wait_for_all(self.model)
        own = self._steps
        if tensors := [tensor for step in own for tensor in step.tensors()]:
            flat = (
                torch.cat([tensor.flatten().to(tensors[0].device) for tensor in tensors])
                .cpu()
                .split([t.numel() for t in tensors])
            )
            found = iter([part.view(tensor.shape) for part, tensor in zip(flat, tensors, strict=True)])
            own = [step.filled(found) for step in own]
        return self.ranks.gather(own, f"ExampleGradients.{call}()")

    def _merged(self, by_rank: list[list[RankStep]]) -> list[MeasuredStep]:
        """Return the steps of all ranks together, after a check of each gradient."""
        steps = merged_steps(by_rank, self.reduction)
        if not any(step.batches for step in steps):
            if steps and not any(part.parameter.requires_grad for part in self._pieces.parts):
                raise GradlabError("every parameter is frozen (requires_grad is off): no example has a gradient")
            raise NothingSeen(
                "the probe has measured no example's gradient: inside the `with` block run model(x) and "
                "loss.backward(), then call probe.step()"
            )
        for step in steps:
            self._check(step)
        return steps

    def _check(self, step: MeasuredStep) -> None:
        """Raise an error if gradients are not the sums over examples; on accelerators, only for the result."""
        step.refuse_half_undone()
        if off := step.off():
            raise GradlabError(
                f"{self._pieces.names(set(off))}: the gradient at step {step.step} is not the sum of what the examples "
                f"gave (off by {max(off.values()):.2g} of their size): the loss depends on the weight in another way "
                "as well, such as by a penalty or a gradient of the model, or a hook changes it; leave that out of the "
                "loss that is measured"
            )

    def _notes(self) -> list[str]:
        notes = []
        if self._forward.without_rows:
            notes.append(
                f"{type(self.model).__name__} gives no row for each example: an example's gradient is what comes of "
                "its rows of the last layers that do, and what a loss makes of several examples together is not told"
            )
        slow = self._backward.slow
        if slow:
            notes.append(
                f"{self._pieces.names(slow)}: measured by a backward pass for each example, since the gradient cannot "
                "be separated where it arises"
            )
        return notes
