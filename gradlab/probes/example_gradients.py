"""The norm of every example's parameter gradient, and what they tell together, in one backward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradlab.errors import GradlabError, UsageError
from gradlab.probes.example_backward import LayerMarks, add_gradient, is_watched
from gradlab.probes.example_batch import Call, OpenBatch
from gradlab.probes.example_rows import Layer, MeasuredStep, example_frame, step_rows
from gradlab.probes.example_rules import (
    Rule,
    exact_rule,
    example_contributions,
    owned_parameters,
    trained_by,
    works_with,
)
from gradlab.probes.finder import output_tensor
from gradlab.probes.gradient_notes import gradient_notes
from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.parameter_gradients import weights_of
from gradlab.probes.schedule import Schedule, StepProbe
from gradlab.probes.selection import Selection, layer_kind, select_weight_layers
from gradlab.results import GradientsResult
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

    Each layer's backward pass is taken apart where it happens, and no example's gradient outlives it: convolutions by
    one convolution with the examples as groups, or on small maps by products of matrices, linear layers by outer
    products, batch normalization by running statistics exactly, any other module with parameters by
    `torch.func.vmap`. There is no other forward or backward pass; a parameter used several times has its gradients
    added before they are measured.

    Batch normalization by the statistics of the batch couples examples, so that none has a gradient of its own: it
    is refused, and `model.eval()` is the cure. Other operations that couple examples cannot be seen from here. Every
    backward pass to the parameters counts, those of `torch.autograd.grad` as well.

    Args:
        model: Any `torch.nn.Module` whose first tensor argument has the examples as its first dimension, as have
            the inputs and outputs of the layers measured.
        layers: Whose weights are measured: a glob, a class, a predicate, or None for rows of every convolution and
            linear layer but the projections of shortcuts, and a total of all parameters. Else the total is that of
            the layers chosen.
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
        self.layers = select_weight_layers(self.model, layers)
        self.reduction = reduction
        weights = {name: weights_of(name, module) for name, module in self.layers.items()}
        chosen = self.model.parameters() if layers is None else (w for ws in weights.values() for w in ws)
        self._parameters = list(dict.fromkeys(chosen))
        number = {parameter: i for i, parameter in enumerate(self._parameters)}
        self._layers = {
            name: Layer(layer_kind(self.layers[name]), [number[w] for w in ws]) for name, ws in weights.items()
        }
        self._with_rows = {number for layer in self._layers.values() for number in layer.parameters}
        self._owners = {
            name: {key: number[p] for key, p in parameters.items() if p in number}
            for name, parameters in owned_parameters(self.model)
        }
        self._executed: dict[str, None] = {}
        self._batches: list[OpenBatch] = []
        self._workspace = Workspace()
        self._marks = LayerMarks()
        self._summed: set[int] = set()
        self._hooked: set[int] = set()
        self._accumulated: set[int] = set()
        self._steps: list[MeasuredStep] = []

    def _attach(self, stack: ExitStack) -> None:
        enter = stack.enter_context
        stack.callback(self._batches.clear)
        stack.callback(self._hooked.clear)
        enter(self.model.register_forward_pre_hook(Hook(self._start), with_kwargs=True))
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm):
                enter(module.register_forward_pre_hook(Hook(self._refuse_coupling(name))))
        for name, owned in self._owners.items():
            if owned:
                # In front of others, which may put something else in the output's place.
                module = self.model.get_submodule(name)
                after = Hook(self._after(name, exact_rule(module), owned))
                enter(module.register_forward_hook(after, with_kwargs=True, prepend=True))
        for i, parameter in enumerate(self._parameters):
            if parameter.requires_grad:
                self._hooked.add(i)
                enter(parameter.register_post_accumulate_grad_hook(Hook(lambda _, i=i: self._accumulated.add(i))))

    def _watching(self) -> bool:
        # A forward in the backward pass is a recomputation by activation checkpointing, or our own.
        # What torch.func differentiates is not the training's own.
        transformed = torch._C._are_functorch_transforms_active()
        return torch.is_grad_enabled() and self.due and not in_backward() and not transformed

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._watching():
            return
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim]
        if not tensors:
            raise GradlabError(f"{type(module).__name__} was called without a tensor: how many examples cannot be told")
        self._batches.append(OpenBatch(len(tensors[0]), self._with_rows, self._workspace))

    def _refuse_coupling(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            if self._watching() and (module.training or module.running_mean is None):
                raise GradlabError(
                    f"{name} normalizes with the statistics of the batch, which couple the examples, so that none has "
                    "a gradient of its own: call model.eval() (statistics of training) first"
                )

        return hook

    def _after(self, name: str, rule: Rule | None, owned: dict[str, int]) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            self._executed.setdefault(name)
            wanted = [key for key, number in owned.items() if works_with(module, key, self._parameters[number])]
            if not wanted or not self._watching() or not self._batches:
                return
            output, batch = output_tensor(name, result), self._batches[-1]
            if not output.requires_grad:
                return
            self._check_examples(name, module, output, batch)
            for key in wanted:
                batch.uses[owned[key]] = batch.uses.get(owned[key], 0) + 1
            call = Call(args, kwargs)
            if rule is not None and {*wanted} == trained_by(module):
                self._marks.mark(output, call.tensors)
            seen = [call]

            def arrived(gradients: tuple[Tensor | None, ...], place: int = output.output_nr) -> None:
                gradient = gradients[place]
                if self._stack is None or gradient is None:
                    return
                if not seen:
                    raise GradlabError(f"{name}: two backward passes through one forward pass; measure one of them")
                # Not kept beyond this: autograd frees what it has saved as it goes, too.
                call = seen.pop()
                call.check_unchanged(name)
                give = self._give if self._summed else None
                with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
                    found = example_contributions(name, module, rule, wanted, call.args, call.kwargs, gradient)
                    for key, contribution in found.items():
                        batch.add(owned[key], contribution, give)

            # Here, and not on the tensor, the hooks that the model itself sets later have changed the gradient.
            assert output.grad_fn is not None
            output.grad_fn.register_prehook(arrived)

        return hook

    def _check_examples(self, name: str, module: nn.Module, output: Tensor, batch: OpenBatch) -> None:
        if vars(module).get("batch_first") is False:
            raise GradlabError(f"{name} has its examples in the second dimension: make it with batch_first=True")
        if not output.ndim or output.shape[0] != batch.examples:
            raise GradlabError(
                f"{name} gives a tensor of shape {tuple(output.shape)} where the model was given {batch.examples} "
                "examples: they must be the first dimension; layers= selects others"
            )

    def backward(self, loss: Tensor) -> None:
        """In place of `loss.backward()`, and faster: weights get the sum of what their examples gave.

        Autograd would compute the gradients of convolutions, linear layers and batch normalization a second time.
        Those that come of this differ from its own by rounding; it gives all others, and those of parameters that
        have hooks or are used outside of their layer, too. Where no step is measured, in distributed training and
        with reentrant activation checkpointing this is `loss.backward()`.

        Args:
            loss: A tensor of one value.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        measured = self._stack is not None and self.due and loss.requires_grad and not distributed
        rest = self._marks.left_over(loss) if measured else None
        if rest is None or rest.reentrant:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        watched = (p for i, p in enumerate(self._parameters) if p.requires_grad and is_watched(p, i in self._hooked))
        leaves = {*rest.leaves, *watched}
        self._summed = {i for i, parameter in enumerate(self._parameters) if parameter not in leaves}
        ends: list[Any] = [*rest.first, *leaves]
        try:
            torch.autograd.backward(loss, inputs=ends)
        finally:
            self._summed = set()

    def _give(self, number: int, total: Tensor) -> None:
        if number in self._summed:
            add_gradient(self._parameters[number], total)

    @torch.no_grad()
    def _measure(self) -> None:
        batches = [batch for batch in self._batches if not batch.empty]
        self._batches.clear()
        accumulated, self._accumulated = self._accumulated, set()
        self._check_all_seen(accumulated.difference(*(batch.uses for batch in batches)))
        frozen = [not parameter.requires_grad for parameter in self._parameters]
        weights = l2_norms(self._parameters)
        scale = self._scale(weights.device)
        measured = [batch.measured(scale) for batch in batches]
        self._steps.append(MeasuredStep(self.steps, measured, weights, frozen))

    def _check_all_seen(self, missed: set[int]) -> None:
        if missed:
            lost = {self._parameters[number] for number in missed}
            names = [name for name, parameter in self.model.named_parameters() if parameter in lost]
            raise GradlabError(
                f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}: there is a gradient, but the layer was not "
                "seen to run with a graph: run the whole model(x) inside the `with` block. Where activation "
                "checkpointing is reentrant, use_reentrant=False helps; where a weight is used without calling its "
                "layer, layers= selects others"
            )

    def result(self, network: str | None = None) -> GradientsResult:
        """The measurement so far: a row a layer and step, in order of execution, and one for the total.

        To the columns of gradients it adds examples, example_norm (the mean of their norms), variance (tr Σ over
        the batch, unbiased), gradient_square (|G|², unbiased), noise_scale (their ratio; McCandlish et al. 2018,
        arXiv:1812.06162, App. A.1), diversity (Σ‖g_i‖²/‖Σ g_i‖²) and mean_cosine (of the gradients of two
        examples). These are of the examples' own gradients, whatever the reduction; grad_norm is that of the loss.
        Where a step had several batches, each is the mean over them, noise_scale the ratio of means.

        Args:
            network: What to call the model; by default its name from `gl.build`, else its class.

        Raises:
            GradlabError: When no step was measured.
        """
        rows: list[dict[str, Any]] = []
        for step in self._fetched():
            rows += step_rows(step, self._ordered(), [p.numel() for p in self._parameters], self.reduction)
        notes = gradient_notes(rows)
        if any(row["examples"] == 1 for row in rows):
            notes.append("a single example has no variance: variance, noise scale and mean cosine are missing")
        return GradientsResult.from_rows(self._name(network), rows, notes)

    def examples(self) -> pd.DataFrame:
        """The norms, with columns step, layer, example (from 0, in the order of the batches) and norm.

        The rows of the layer `total` are of all parameters measured.

        Raises:
            GradlabError: When no step was measured.
        """
        return example_frame(self._fetched(), self._ordered(), self.reduction)

    def _ordered(self) -> dict[str, Layer]:
        """The layers in order of execution, those that never ran last."""
        ran = [name for name in self._executed if name in self._layers]
        return {name: self._layers[name] for name in dict.fromkeys([*ran, *self._layers])}

    def _fetched(self) -> list[MeasuredStep]:
        """All steps on the CPU, in one transfer."""
        if not any(step.batches for step in self._steps):
            if self._steps and all(all(step.frozen) for step in self._steps):
                raise GradlabError("every parameter is frozen (requires_grad is off): no example has a gradient")
            raise GradlabError(
                "the probe has measured no example's gradient: inside the `with` block run model(x) and "
                "loss.backward(), then call probe.step()"
            )
        tensors = [tensor for step in self._steps for tensor in step.tensors()]
        flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu().split([t.numel() for t in tensors])
        found = iter([part.view(tensor.shape) for part, tensor in zip(flat, tensors, strict=True)])
        return [step.filled(found) for step in self._steps]
