"""The norm of every layer's weight gradient, in a training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, UsageError
from gradlab.probes.gradient_notes import gradient_notes
from gradlab.probes.hooks import Hook
from gradlab.probes.schedule import Schedule, StepProbe
from gradlab.probes.selection import Selection, layer_kind, select_weight_layers
from gradlab.results import GradientsResult
from gradlab.stats import l2_norms

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler


@dataclass
class _Step:
    """One measured step: why a weight has no gradient, and the norms of the others and of all weights."""

    step: int
    absent: list[str | None]
    norms: Tensor


class ParameterGradients(StepProbe):
    """Measures the L2 norm of every weight layer's gradient, its RMS, and its size relative to the weight.

        with gl.ParameterGradients(model, every=100) as probe:
            for images, labels in loader:
                loss_function(model(images), labels).backward()
                probe.step()
                optimizer.step()
                optimizer.zero_grad()
        probe.result()

    A layer's gradient is that of its weight, without its bias; of a layer that has no `weight`, that of all its
    own parameters, and of a parametrized one, that of what its weight is computed from. Norms are taken in
    float64 on the model's device, which nothing waits for until the result is asked for. Gradients that are
    DTensors count with all their shards; `step` is then to be called by every process.

    Args:
        model: Any `torch.nn.Module`.
        layers: What to measure: a glob, a class, a predicate, or None for every convolution and linear layer but
            the projections of shortcuts (see `select_weight_layers`).
        every: Measure every so many steps, or where a function of the step's number says so (`log_spaced`).
        scaler: The GradScaler of mixed-precision training: its scale is divided out, unless its `unscale_` has
            been called in this step.

    Raises:
        UsageError: When no layer with parameters is selected, or the model is wrapped in FullyShardedDataParallel,
            which flattens parameters: `fully_shard` keeps them.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Selection = None,
        *,
        every: Schedule = 1,
        scaler: GradScaler | None = None,
    ) -> None:
        super().__init__(model, every, scaler)
        if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
            raise UsageError(
                "FullyShardedDataParallel flattens parameters, so that layers have no gradients of their own: "
                "shard the model with torch.distributed.fsdp.fully_shard, whose gradients are measured over all shards"
            )
        self.layers = select_weight_layers(self.model, layers)
        self._weights = {name: weights_of(name, module) for name, module in self.layers.items()}
        self._parameters = [weight for weights in self._weights.values() for weight in weights]
        self._executed: dict[str, None] = {}
        self._steps: list[_Step] = []

    def _attach(self, stack: ExitStack) -> None:
        if self._compiled:
            return
        for name, module in self.layers.items():
            if name not in self._executed:
                stack.enter_context(module.register_forward_pre_hook(Hook(self._notice(name))))

    def _refuse_silence(self, stack: ExitStack) -> None:
        """Parameters' gradients need no hooks, so compiled code may stay compiled."""

    def _notice(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._executed.setdefault(name)

        return hook

    @torch.no_grad()
    def _measure(self) -> None:
        found = [weight.grad for weight in self._parameters if weight.requires_grad and weight.grad is not None]
        missing = "not reached" if any(p.grad is not None for p in self.model.parameters()) else "cleared"
        absent = [
            "frozen" if not weight.requires_grad else missing if weight.grad is None else None
            for weight in self._parameters
        ]
        norms = l2_norms([*found, *self._parameters])
        if found and not self._unscaled():
            norms[: len(found)] /= self._scale(norms.device)
        self._steps.append(_Step(self.steps, absent, norms))

    def _unscaled(self) -> bool:
        """Whether the gradients are free of the scale already; there is no public way to ask."""
        states = getattr(self.scaler, "_per_optimizer_states", {})
        return any(state["stage"].name == "UNSCALED" for state in states.values())

    def result(self, network: str | None = None) -> GradientsResult:
        """The measurement so far: one row a layer and step, in order of execution.

        Args:
            network: What to call the model; by default its name from `gl.build`, else its class.

        Raises:
            GradlabError: When no step was measured.
        """
        rows = self.rows()
        return GradientsResult.from_rows(self._name(network), rows, gradient_notes(rows))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `result`, as plain values.

        Raises:
            GradlabError: When no step was measured.
        """
        if not self._steps:
            raise GradlabError(
                "the probe has measured no step: call probe.step() after each backward pass, before the optimizer's "
                f"step{'' if not self.steps else f'; the schedule left out all {self.steps} so far'}"
            )
        lengths = [len(step.norms) for step in self._steps]
        values = torch.cat([step.norms for step in self._steps]).cpu().split(lengths)
        rows = []
        for step, norms in zip(self._steps, values, strict=True):
            rows += self._rows(step, norms.tolist())
        return rows

    def _rows(self, step: _Step, norms: Sequence[float]) -> list[dict[str, Any]]:
        """The rows of one step.

        Args:
            step: What was found there.
            norms: Those of the gradients that are there, then those of all weights.
        """
        gradients = iter(norms)
        each = [math.nan if reason else next(gradients) for reason in step.absent]
        by_parameter = list(zip(self._parameters, step.absent, each, gradients, strict=True))
        by_layer, start = {}, 0
        for name, weights in self._weights.items():
            by_layer[name] = by_parameter[start : start + len(weights)]
            start += len(weights)
        order = [*self._executed, *(name for name in self.layers if name not in self._executed)]
        rows = []
        for index, name in enumerate(order, 1):
            there = [norm for _, reason, norm, _ in by_layer[name] if reason is None]
            numel = sum(weight.numel() for weight, *_ in by_layer[name])
            grad_norm = math.hypot(*there) if there else math.nan
            weight_norm = math.hypot(*(norm for *_, norm in by_layer[name]))
            rows.append(
                {
                    "layer": name,
                    "index": index,
                    "kind": layer_kind(self.layers[name]),
                    "numel": numel,
                    "weight_norm": weight_norm,
                    "grad_norm": grad_norm,
                    "grad_rms": grad_norm / math.sqrt(numel),
                    "relative": grad_norm / weight_norm if weight_norm else math.nan,
                    "step": step.step,
                    "non_finite": bool(there) and not math.isfinite(grad_norm),
                    "absent": None if there else by_layer[name][0][1],
                }
            )
        return rows


def weights_of(name: str, module: nn.Module) -> list[nn.Parameter]:
    """The parameters that a layer's gradient is taken of: see `ParameterGradients`.

    Args:
        name: The layer's, for the error.
        module: The layer.

    Raises:
        UsageError: When it has none.
    """
    own = dict(module.named_parameters(recurse=False))
    parametrized = getattr(module, "parametrizations", {})
    if "weight" in own:
        return [own["weight"]]
    if "weight" in parametrized:
        return list(parametrized["weight"].parameters())
    weights = list(own.values()) or list(module.parameters())
    if not weights:
        raise UsageError(f"layer {name} ({type(module).__name__}) has no parameters: select another")
    return weights
