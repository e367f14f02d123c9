"""The norm of every example's parameter gradient, and what they tell together, in one backward pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn.modules.batchnorm import _BatchNorm

from gradlab.errors import GradlabError, UsageError
from gradlab.probes.applications import leave
from gradlab.probes.backward_passes import declared
from gradlab.probes.coverage import coverage_of
from gradlab.probes.examples.apart import by_passes, taken_apart
from gradlab.probes.examples.backward import UseMarks, add_gradient, is_watched
from gradlab.probes.examples.batch import OpenBatch, Structure
from gradlab.probes.examples.checks import GradientChecks
from gradlab.probes.examples.forward import ForwardWatch
from gradlab.probes.examples.layout import Layout
from gradlab.probes.examples.rows import REST, MeasuredStep, example_columns, example_frame
from gradlab.probes.examples.structure import Trial, tolerance_of, whole
from gradlab.probes.examples.uses import Use, UseFinder
from gradlab.probes.gradient_notes import gradient_notes, shared_notes
from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.parameter_gradients import ParameterGradients
from gradlab.probes.schedule import Schedule, StepProbe
from gradlab.probes.selection import Selection, select_rows
from gradlab.probes.weights import Part
from gradlab.results import GradientsResult
from gradlab.results.gradients import TOTAL
from gradlab.stats import Workspace, l2_norms

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler

Reduction = Literal["mean", "sum"]


class ExampleGradients(StepProbe):
    """Measures the norm of the parameter gradient of each example of a batch, by layer and in total.

        model.eval()
        with gl.ExampleGradients(model) as probe:
            probe.backward(F.cross_entropy(model(images), labels))  # or loss.backward(), which is slower
            probe.step()
        probe.examples()  # a norm for each example and layer
        probe.result()    # variance, noise scale, diversity and mean cosine by layer and in total

    Each function that is given a parameter, whichever module calls it, has its backward pass taken apart where it
    happens: convolutions by one convolution with the examples as groups, or on small maps by products of matrices,
    linear layers and attention's projections by outer products, embeddings, normalizations, positions and scales by
    what was looked up or broadcast, any other function by its own derivative with one example at a time. Weights that
    are computed from parameters are followed back to these. No example's gradient outlives its layer.

    An example's gradient is that of its own loss: what comes of its row of the model's output. In the first backward
    pass of each kind the probe makes two others through the same graph, without gradients of parameters, in which it
    scales the examples: they show where examples lie in every tensor, and whether the model couples them, as batch
    normalization by the statistics of the batch does. Then no example has a gradient of its own, and that is refused.
    Parameters whose gradient cannot be taken apart (experts that see tokens of several examples, functions with a
    backward pass of the user's own) get one backward pass an example: exact, and as slow as that.

    Every gradient is checked against the sum over examples; what does not agree, such as that of a penalty on a weight
    in the loss, is refused by name. A step may hold several batches: with `reduction="mean"` the loss of each is to be
    divided by their number, as Lightning and Trainer do.

    Args:
        model: Any `torch.nn.Module` whose inputs and outputs have the examples as their first dimension.
        layers: Whose weights are measured (see `select_rows`), or None for rows of all weights and a total of all
            parameters. Else the total is that of the layers chosen.
        reduction: How the loss joins the losses of examples: their `mean` or their `sum`.
        every: Measure every so many steps, or where a function of the step's number says so (`log_spaced`).
        scaler: The GradScaler of mixed-precision training: its scale is divided out.

    Raises:
        UsageError: When no layer with parameters is selected, or for another `reduction`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Selection = None,
        *,
        reduction: Reduction = "mean",
        every: Schedule = 1,
        scaler: GradScaler | None = None,
    ) -> None:
        super().__init__(model, every, scaler)
        if reduction not in ("mean", "sum"):
            raise UsageError(f"reduction is mean or sum, as of the loss, not {reduction!r}")
        self.reduction = reduction
        self.layers = select_rows(self.model, layers)
        self._norms = ParameterGradients(model, layers, parameters="weights" if layers is not None else "all")
        every_row = [*self._norms.layers.values(), *self.layers.values()]
        parts = list({_key(part): part for row in every_row for part in row.parts}.values())
        chosen = dict.fromkeys(part.parameter for part in parts)
        # The others are followed as well, to be told from data.
        self._parameters = [*dict.fromkeys([*chosen, *self.model.parameters()])]
        self._chosen = range(len(chosen))
        number = {parameter: i for i, parameter in enumerate(self._parameters)}
        self._pieces: dict[int, list[tuple[int, slice | None]]] = {}
        for piece, part in enumerate(parts):
            self._pieces.setdefault(number[part.parameter], []).append((piece, _elements(part)))
        pieces = {_key(part): piece for piece, part in enumerate(parts)}
        self._parts = parts
        self._rows = {name: [pieces[_key(part)] for part in row.parts] for name, row in self.layers.items()}
        self._with_rows = {piece for wanted in self._rows.values() for piece in wanted}
        self._batches: list[OpenBatch] = []
        self._structures: dict[tuple[object, ...], Structure] = {}
        self._workspace, self._marks = Workspace(), UseMarks()
        self._checks = GradientChecks(self._parameters, self._chosen)
        self._finder = UseFinder(number, self._found)
        self._forward = ForwardWatch(self.model, self._watching, self._begin, self._end)
        self._trial: Trial | None = None
        self._inner: Literal["", "trial", "follow", "inside", "apart"] = ""
        self._inside: Use | None = None
        self._own = False
        self._summed: set[int] = set()
        self._joined: dict[int, Tensor] = {}
        self._stale: Tensor | None = None
        self._without_rows = False
        self._steps: list[MeasuredStep] = []

    def _attach(self, stack: ExitStack) -> None:
        enter = stack.enter_context
        for forget in (self._batches.clear, self._joined.clear, self._finder.stop, lambda: leave(self._finder)):
            stack.callback(forget)
        self._norms.scaler = self.scaler
        enter(self._norms)
        self._forward.attach(stack)
        self._checks.attach(stack, self._checked)
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm):
                enter(module.register_forward_pre_hook(Hook(self._refuse_coupling(name))))
        for i in self._chosen:
            if (parameter := self._parameters[i]).requires_grad:
                enter(parameter.register_post_accumulate_grad_hook(Hook(lambda _, i=i: self._accumulated(i))))

    # In a forward pass.

    def _watching(self) -> bool:
        # A forward in the backward pass is a recomputation by activation checkpointing.
        # What torch.func differentiates is not the training's own.
        transformed = torch._C._are_functorch_transforms_active()
        return torch.is_grad_enabled() and self.due and not in_backward() and not transformed

    def _refuse_coupling(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            if self._watching() and (module.training or module.running_mean is None):
                raise GradlabError(
                    f"{name} normalizes with the statistics of the batch, which couple the examples, so that none has "
                    "a gradient of its own: call model.eval() (statistics of training) first"
                )

        return hook

    def _begin(self, module: nn.Module, examples: int, inputs: list[Tensor]) -> None:
        if not self._batches:
            there = [p.grad for p in self._parameters if p.grad is not None]
            self._stale = l2_norms(there).norm() if there else None
        # Parts of a model that are called one after the other are one pass.
        goes_on = module is not self.model and self._batches and self._batches[-1].examples == examples
        if not goes_on or self._batches[-1].structure is not None:
            self._batches.append(OpenBatch(examples, self._pieces, self._with_rows, self._workspace))
            self._batches[-1].signature += [examples, self.model.training]
        self._finder.start(examples, inputs)
        self._finder.__enter__()

    def _end(self, outputs: list[Tensor], own: bool) -> None:
        leave(self._finder)
        self._finder.stop()
        batch = self._batches[-1]
        self._without_rows |= not own
        for output in outputs:
            number, batch.outputs = batch.outputs, batch.outputs + 1
            batch.signature.append(output.shape)
            self._when_arrived(output, functools.partial(self._begin_backward, batch, number))

    def _found(self, use: Use) -> None:
        batch, sources = self._batches[-1], use.sources
        measured = [number for number in sources if number in self._chosen]
        number = len(batch.signature)
        batch.signature.append((use.function, sources, use.follows, *(output.shape for output in use.outputs)))
        left = [self._parameters[i] for i in sources if i not in self._chosen]
        outputs, use.outputs = use.outputs, []
        use.several = len(outputs) > 1
        taking_part = [*outputs, *(operand.tensor for operand in use.operands)]
        self._checks.precision = max(self._checks.precision, *(tolerance_of(tensor.dtype) for tensor in taking_part))
        for place, output in enumerate(outputs):
            batch.places += 1
            for i in measured:
                batch.uses[i] = batch.uses.get(i, 0) + sum(operand.sources.count(i) for operand in use.operands)
            taken = [use]
            self._marks.mark(output, use.before, left, ((number, place), taken))

            def arrived(
                edge: GradientEdge, gradient: Tensor, at: tuple[int, int] = (number, place), taken: list[Use] = taken
            ) -> None:
                self._use_arrived(batch, at, taken, edge, gradient)

            self._when_arrived(output, arrived)

    def _when_arrived(self, output: Tensor, call: Callable[[GradientEdge, Tensor], None]) -> None:
        """Call when a gradient arrives at an output, with its edge of the graph."""
        place = output.output_nr

        def hook(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[place]
            if self._stack is not None and gradient is not None:
                # Not from the output, which would hold on to itself.
                node = torch._C._current_autograd_node()
                with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
                    call(GradientEdge(node, place), gradient)

        # Here, and not on the tensor, the hooks that the model itself sets later have changed the gradient.
        assert output.grad_fn is not None
        output.grad_fn.register_prehook(hook)

    # In a backward pass.

    def _begin_backward(self, batch: OpenBatch, number: int, edge: GradientEdge, gradient: Tensor) -> None:
        """The gradient has arrived at an output of the model: find out what is behind it."""
        if self._inner == "follow":
            batch.passed_on[number] = gradient + batch.passed_on.get(number, 0)
        if self._inner or not self._counts():
            return
        key = tuple(batch.signature)
        if batch.structure is None:
            batch.structure = self._structures.get(key) or Structure()
        structure = batch.structure
        if number not in structure.tried and (not structure.tried or len(structure.layouts) < batch.places):
            self._try(batch, structure, edge, gradient)
            structure.tried.add(number)
            if structure.certain:
                self._structures[key] = structure
        slow = sorted(structure.slow & {*self._chosen})
        if slow:
            self._pass_by_pass(batch, number, slow, edge, gradient)
        early, batch.early = batch.early, []
        for call in early:
            call()

    def _try(self, batch: OpenBatch, structure: Structure, edge: GradientEdge, gradient: Tensor) -> None:
        rest = self._marks.left_over(edge.node)
        if rest.reentrant:
            inside = {i for i in self._chosen if self._parameters[i].requires_grad and i not in batch.uses}
            raise GradlabError(
                f"{self._names_of(inside) or 'the model'}: reentrant activation checkpointing hides what runs inside; "
                "use_reentrant=False shows it"
            )
        structure.slow |= {i for i in self._chosen if self._parameters[i] in rest.unseen}
        self._trial = trial = Trial(batch.examples, self._names)
        if batch.examples > 1:
            with self._within("trial"):
                trial.run(edge, gradient, rest)
        structure.layouts.update(trial.found)
        structure.slow |= trial.slow
        structure.certain &= trial.certain

    def _pass_by_pass(
        self, batch: OpenBatch, number: int, slow: list[int], edge: GradientEdge, gradient: Tensor
    ) -> None:
        """Take the gradients of some parameters by a backward pass for each example."""
        rest = gradient - batch.passed_on.get(number, 0)
        if number in batch.passed_on and rest.norm() <= 1e-9 * gradient.norm():
            return
        parameters = [self._parameters[i] for i in slow]
        if hooked := [i for i in slow if self._parameters[i]._backward_hooks]:
            raise GradlabError(
                f"{self._names_of(hooked)}: has a hook of its own, which a backward pass for each example would call "
                "again and again: take it off while example gradients are measured, or leave the layer out with layers="
            )
        if batch.outputs > 1:
            with self._within("follow"):
                torch.autograd.grad([edge], parameters, [rest], retain_graph=True, allow_unused=True)
        with self._within("apart"):
            found = by_passes([edge], rest, Layout(0, batch.examples), parameters)
        for i, rows in zip(slow, found, strict=True):
            # More may come from other outputs of the model, and is waited for until the step ends.
            batch.uses[i] = max(2, batch.uses.get(i, 0)) + 1
            batch.add(i, rows, self._give)

    def _use_arrived(
        self, batch: OpenBatch, at: tuple[int, int], taken: list[Use], edge: GradientEdge, gradient: Tensor
    ) -> None:
        if self._inner == "trial" and self._trial is not None and taken:
            self._trial.record(at, taken[0], gradient)
        if self._inner == "inside" and taken and taken[0] is self._inside:
            self._inside.passed_on[at[1]] = gradient + self._inside.passed_on.get(at[1], 0)
        if self._inner or not self._counts():
            return
        # An output of the model may be what a use returned: then the use is told first.
        if batch.structure is None or (batch.examples > 1 and at not in batch.structure.layouts):
            batch.early.append(lambda: self._use_arrived(batch, at, taken, edge, gradient))
            return
        if not taken:
            raise GradlabError(
                "two backward passes through one forward pass: add the losses up and call backward once, so that each "
                "example has one gradient"
            )
        # Not kept beyond this: autograd frees what it has saved as it goes, too.
        use = taken.pop()
        measured = {i for i in use.sources if i in self._chosen} - batch.structure.slow
        if not measured:
            return
        changed = any(tensor._version != version for tensor, version in use.inputs)
        if changed and use.match is not None:
            raise GradlabError(
                f"{self._names(use)}: the input of {use.function} was changed in place after it had been read: use the "
                "operation that returns a new tensor"
            )
        layout = whole(gradient.shape) if batch.examples == 1 else batch.structure.layouts[at]
        assert layout is not None
        if use.match is None and use.several:
            # One output may be computed from another, as an LSTM's response is from its cells.
            gradient = gradient - use.passed_on.get(at[1], 0)
            self._inside = use
            stand_ins = [operand.stand_in for operand in use.operands if operand.stand_in is not None]
            if stand_ins:
                with self._within("inside"):
                    torch.autograd.grad([edge], stand_ins, [gradient], retain_graph=True, allow_unused=True)
        with self._within("apart"):
            for i, contribution in taken_apart(use, edge, gradient, layout, self._parameters):
                if i in measured:
                    batch.add(i, contribution, self._give)

    @contextmanager
    def _within(self, what: Literal["trial", "follow", "inside", "apart"]) -> Iterator[None]:
        """While the probe makes backward passes of its own."""
        self._inner = what
        try:
            yield
        finally:
            self._inner = ""

    def _counts(self) -> bool:
        """Whether the backward pass under way adds to the parameters' gradients."""
        return self._own or self._checks.accumulates()

    def _give(self, number: int, total: Tensor, sizes: Tensor) -> None:
        if number in self._summed:
            add_gradient(self._parameters[number], total)
            self._accumulated(number)
        else:
            self._checks.expect(number, total, sizes)

    def _checked(self) -> bool:
        """Whether gradients that arrive at parameters now are the step's."""
        return self.due and not self._inner and self._counts()

    def _accumulated(self, number: int) -> None:
        """A parameter has its gradient: with several batches, its norm is that of their sum."""
        if sum(batch.structure is not None for batch in self._batches) > 1:
            gradient = self._parameters[number].grad
            for piece, place in self._pieces[number]:
                if gradient is not None:
                    self._joined[piece] = l2_norms([gradient if place is None else gradient.flatten()[place]])[0]

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """In place of `loss.backward()`, and faster: weights get the sum of what their examples gave.

        Autograd would compute the gradients of convolutions, linear layers and others a second time. Those that come
        of this differ from its own by rounding; it gives all others, and those of parameters that have hooks or uses
        that the probe does not see. In the first pass of each kind, where no step is measured, in distributed training
        and with reentrant activation checkpointing this is `loss.backward()`.

        Args:
            loss: A tensor of one value.
            retain_graph: As of `Tensor.backward`.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        structures = [self._structures.get(tuple(b.signature)) for b in self._batches if b.structure is None]
        known = bool(structures) and all(structures)
        measured = self._stack is not None and self.due and loss.grad_fn is not None and not distributed
        rest = self._marks.left_over(loss.grad_fn) if measured and known and loss.grad_fn is not None else None
        if rest is None or rest.reentrant:
            loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]
            return
        slow = {i for structure in structures if structure is not None for i in structure.slow}
        watched = (
            p
            for i, p in enumerate(self._parameters)
            if p.requires_grad and (i in slow or is_watched(p, int(i in self._chosen)))
        )
        leaves = dict.fromkeys([*rest.leaves, *watched])
        self._summed = {i for i in self._chosen if self._parameters[i] not in leaves}
        ends: list[Any] = [*(edge for edge, _ in rest.first), *leaves]
        self._own = True
        try:
            with declared():
                torch.autograd.backward(loss, retain_graph=retain_graph, inputs=ends)
        finally:
            self._own, self._summed = False, set()

    @torch.no_grad()
    def _measure(self) -> None:
        waiting = [batch for batch in self._batches if batch.early]
        batches = [batch for batch in self._batches if not batch.empty]
        self._batches.clear()
        if waiting:
            self._checks.forget()
            raise GradlabError(
                f"{type(self.model).__name__} has weights beyond its last output with a row for each of "
                f"{waiting[0].examples} examples: return the logits, with the examples as the first dimension"
            )
        self._checks.all_seen(self._names_of)
        self._norms.steps = self.steps
        self._norms.step()
        device = self._parameters[0].device
        scale = self._scale(device)
        joined = None
        if len(batches) > 1:
            missing = torch.zeros((), dtype=torch.float64, device=device)
            joined = (
                torch.stack([self._joined.get(piece, missing).to(device) for piece in range(len(self._parts))]) / scale
            )
        self._joined.clear()
        differences, checked = self._checks.taken(device)
        measured = [batch.measured(scale) for batch in batches]
        step = MeasuredStep(self.steps, measured, joined, self._stale, differences, checked)
        if device.type == "cpu":
            self._check(step)
        self._steps.append(step)

    def result(self, network: str | None = None) -> GradientsResult:
        """The measurement so far: a row a weight and step, in order of execution, and one for the total.

        To the columns of gradients it adds examples, example_norm (the mean of their norms), variance (tr Σ over
        the batch, unbiased), gradient_square (|G|², unbiased), noise_scale (their ratio; McCandlish et al. 2018,
        arXiv:1812.06162, App. A.1), diversity (Σ‖g_i‖²/‖Σ g_i‖²) and mean_cosine (of the gradients of two
        examples of one batch). These are of the examples' own gradients, whatever the reduction; grad_norm is that of
        `.grad`, as `ParameterGradients` has it. The examples of a step are taken together, in however many batches.

        Args:
            network: What to call the model; by default its name from `gl.build`, else its class.

        Raises:
            GradlabError: When no step was measured, or a gradient was not the sum of what the examples gave.
        """
        steps = {step.step: step for step in self._fetched()}
        rows: list[dict[str, Any]] = []
        places: dict[int, int] = {}
        for row in self._norms.rows():
            if row["layer"] in self._rows:
                step = row["step"]
                places[step] = places.get(step, 0) + 1
                examples = example_columns(steps[step], self._rows[row["layer"]], self.reduction)
                rows.append(row | examples | {"index": places[step]})
        for total in self._norms.totals():
            trainable = [piece for piece, part in enumerate(self._parts) if part.parameter.requires_grad]
            numel = {"numel": sum(self._parts[piece].numel for piece in trainable)}
            examples = example_columns(steps[total["step"]], [*trainable, REST], self.reduction)
            rows.append({"layer": TOTAL, "kind": TOTAL, "index": None} | total | examples | numel)
        facts = {"coverage": coverage_of(self.model, self.layers.values()).as_record()}
        notes = [*gradient_notes(rows), *shared_notes(self.layers.values()), *self._notes(list(steps.values()))]
        return GradientsResult.from_rows(self._name(network), rows, notes, facts)

    def examples(self) -> pd.DataFrame:
        """The norms, with columns step, layer, example (from 0, in the order of the batches) and norm.

        The rows of the layer `total` are of all parameters measured.

        Raises:
            GradlabError: When no step was measured, or a gradient was not the sum of what the examples gave.
        """
        trainable = [piece for piece, part in enumerate(self._parts) if part.parameter.requires_grad]
        order = dict.fromkeys(row["layer"] for row in self._norms.rows())
        layers = {name: self._rows[name] for name in order if name in self._rows}
        return example_frame(self._fetched(), {**layers, TOTAL: [*trainable, REST]}, self.reduction)

    def _fetched(self) -> list[MeasuredStep]:
        """All steps on the CPU, in one transfer, each gradient checked."""
        if not any(step.batches for step in self._steps):
            if self._steps and not any(part.parameter.requires_grad for part in self._parts):
                raise GradlabError("every parameter is frozen (requires_grad is off): no example has a gradient")
            raise GradlabError(
                "the probe has measured no example's gradient: inside the `with` block run model(x) and "
                "loss.backward(), then call probe.step()"
            )
        tensors = [tensor for step in self._steps for tensor in step.tensors()]
        flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu().split([t.numel() for t in tensors])
        found = iter([part.view(tensor.shape) for part, tensor in zip(flat, tensors, strict=True)])
        steps = [step.filled(found) for step in self._steps]
        for step in steps:
            self._check(step)
        return steps

    def _check(self, step: MeasuredStep) -> None:
        """Refuse a step of which the examples do not tell the whole; on an accelerator that waits for the result."""
        if off := step.off():
            raise GradlabError(
                f"{self._names_of(set(off))}: the gradient at step {step.step} is not the sum of what the examples "
                f"gave (off by {max(off.values()):.2g} of their size): the loss depends on the weight in another way "
                "as well, such as by a penalty or a gradient of the model, or a hook changes it; leave that out of the "
                "loss that is measured"
            )

    def _notes(self, steps: Sequence[MeasuredStep]) -> list[str]:
        notes = []
        if any(sum(batch.examples for batch in step.batches) == 1 for step in steps):
            notes.append("a single example has no variance: variance, noise scale and mean cosine are missing")
        several = [step for step in steps if len(step.batches) > 1]
        if several and self.reduction == "mean":
            notes.append(
                f"up to {max(len(step.batches) for step in several)} batches a step: example norms are right where the "
                "mean loss of each batch was divided by their number"
            )
        if any(len({batch.examples for batch in step.batches}) > 1 for step in several) and self.reduction == "mean":
            notes.append("batches of one step differ in size: variance, noise scale and diversity are missing")
        if any(step.stale is not None and step.stale > 0 for step in several):
            notes.append(
                "gradients were not 0 when a step began: variance, noise scale and diversity of its batches are missing"
            )
        if self._without_rows:
            notes.append(
                f"{type(self.model).__name__} gives no row for each example: an example's gradient is what comes of "
                "its rows of the last layers that do, and what a loss makes of several examples together is not told"
            )
        slow = {i for structure in self._structures.values() for i in structure.slow & {*self._chosen}}
        if slow:
            notes.append(
                f"{self._names_of(slow)}: measured by a backward pass for each example, since the gradient cannot be "
                "taken apart where it arises"
            )
        return notes

    def _names(self, use: Use) -> str:
        return self._names_of(set(use.sources))

    def _names_of(self, numbers: Iterable[int]) -> str:
        wanted = {self._parameters[number] for number in numbers}
        names = [name for name, parameter in self.model.named_parameters() if parameter in wanted]
        return f"{', '.join(names[:3])}{f', … ({len(names)} parameters)' if len(names) > 3 else ''}"


def _key(part: Part) -> tuple[int, str]:
    return id(part.parameter), str(part.rows)


def _elements(part: Part) -> slice | None:
    """The place of a part in the flattened parameter; None for the whole."""
    if part.rows is None:
        return None
    width = math.prod(part.parameter.shape[1:])
    return slice(part.rows.start * width, part.rows.stop * width)
