"""The norms of weight gradients in a training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError
from gradlab.probes.coverage import coverage_of, depth_of, description_of
from gradlab.probes.execution import ExecutionOrder
from gradlab.probes.gradient_notes import gradient_notes, shared_notes
from gradlab.probes.meeting import ShardMeeting
from gradlab.probes.ranks import TIMEOUT, Ranks
from gradlab.probes.scaling import UnscaleRecord, watch_unscaling
from gradlab.probes.schedule import Schedule, StepProbe
from gradlab.probes.selection import Selection, select_rows
from gradlab.probes.streams import wait_for_all
from gradlab.probes.weights import Parameters, Part
from gradlab.results.gradients.result import GradientsResult
from gradlab.stats import l2_norms

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler

_ROWS = 128
"""Number of steps whose norms share a block of memory."""


@dataclass
class _Step:
    """One measured step: why parts have no gradient, and how many norms there are of other gradients and all parts."""

    step: int
    absent: list[str | None]
    count: int


class ParameterGradients(StepProbe):
    """Measures the L2 norm of every weight's gradient, its RMS, and its size relative to the weight.

        with gl.ParameterGradients(model, every=100) as probe:
            for images, labels in loader:
                loss_function(model(images), labels).backward()
                probe.step()
                optimizer.step()
                optimizer.zero_grad()
        probe.result()

    The value of `.grad` at the call of `step` is measured, whichever passes produced it; after `clip_grad_norm_` it is
    the clipped gradient. A layer's gradient is that of its weight without its bias. If the weight is computed
    (parametrized, pruned, with weight or spectral norm), it is the gradient of the parameters it is computed from.
    Norms are computed in float64 on the model's device, without synchronization until the result is requested.
    Gradients that are DTensors count with all their shards; every process must then call `step`, at the same steps.

    Args:
        model: Any `torch.nn.Module`.
        layers: The layers to measure: names or globs, a class, a predicate, or None for every parameter of two or more
            dimensions, in modules of any class (see `select_rows`). A module that is not a layer is measured by all
            parameters below it.
        parameters: `weights`, or `all` to add rows for biases, gains and every other parameter; `totals` then gives
            the value that `clip_grad_norm_` returns.
        every: The number of steps from one measurement to the next, or a predicate of the step number (`log_spaced`).
        scaler: The GradScaler of mixed-precision training. Its scale is divided out of the gradients of those
            optimizers for which `unscale_` has not been called in this step.
        timeout: Seconds for which a step waits for the other ranks where parameters are DTensors, until an error names
            those that are missing.

    Raises:
        UsageError: If no layer with parameters is selected, or if a parameter has no shape yet.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Selection = None,
        *,
        parameters: Parameters = "weights",
        every: Schedule = 1,
        scaler: GradScaler | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(model, Ranks(), every, scaler)
        self.layers = select_rows(self.model, layers, parameters)
        self._vectors = parameters == "all"
        # Each part is listed once, even if several rows contain it.
        self._parts = list({part.key: part for row in self.layers.values() for part in row.parts}.values())
        self._numbers = {part.key: number for number, part in enumerate(self._parts)}
        self._homes = [(part, home) for part in self._parts if (home := _home(self.model, part)) is not None]
        self._shards = ShardMeeting((part.parameter for part in self._parts), timeout)
        self._executed = ExecutionOrder(self.model, self.layers)
        self._record: UnscaleRecord | None = None
        self._steps: list[_Step] = []
        self._blocks: list[Tensor] = []

    def _attach(self, stack: ExitStack) -> None:
        if self.scaler is not None and self.scaler.is_enabled():
            self._record = watch_unscaling(self.scaler, stack)
        if not self._compiled:
            self._executed.attach(stack)

    @property
    def _needs_hooks(self) -> bool:
        # Gradients of parameters need none, so that compiled code stays compiled.
        return False

    @torch.no_grad()
    def _measure(self) -> None:
        self._check_in_place()
        self._shards.meet("the step of ParameterGradients", self.steps)
        # The gradient of a parameter in several rows is read once, as it may be a new tensor at each access.
        grads = {id(part.parameter): part.parameter.grad for part in self._parts if part.parameter.requires_grad}
        missing = "not reached" if any(p.grad is not None for p in self.model.parameters()) else "cleared"
        absent = [
            "frozen" if not part.parameter.requires_grad else missing if grads[id(part.parameter)] is None else None
            for part in self._parts
        ]
        there = [
            (part, grads[id(part.parameter)]) for part, reason in zip(self._parts, absent, strict=True) if not reason
        ]
        weights = [part.of(part.parameter) for part in self._parts]
        norms = l2_norms([*(part.of(grad) for part, grad in there if grad is not None), *weights])
        if there and self._record is not None:
            free, scale = self._record.parameters(), torch.as_tensor(self._scale(norms.device))
            one = torch.ones_like(scale)
            norms[: len(there)] /= torch.stack([one if id(part.parameter) in free else scale for part, _ in there])
        if self._steps and self._steps[-1].absent == absent:
            absent = self._steps[-1].absent
        self._room(norms)[: len(norms)].copy_(norms)
        self._steps.append(_Step(self.steps, absent, len(norms)))

    def forget_last(self) -> None:
        """Forget the step that was measured last, which whoever called `step` refuses."""
        self._steps.pop()
        if len(self._steps) % _ROWS == 0:
            self._blocks.pop()

    def _room(self, norms: Tensor) -> Tensor:
        """Return the next row of a block of memory: small tensors that outlive a step would fragment the heap."""
        row = len(self._steps) % _ROWS
        if not row:
            self._blocks.append(norms.new_empty(_ROWS, 2 * len(self._parts)))
        return self._blocks[-1][row]

    def _check_in_place(self) -> None:
        """Raise an error if the model's parameters were replaced since the probe was made."""
        replaced = [part.name for part, (own, key) in self._homes if own.get(key) is not part.parameter]
        if replaced:
            raise GradlabError(
                f"{', '.join(replaced[:3])}{', …' if len(replaced) > 3 else ''}: replaced by another parameter since "
                "the probe was made; make the probe after the model is wrapped, loaded, pruned or parametrized"
            )

    def result(self, network: str | None = None) -> GradientsResult:
        """Return the measurement so far: one row per weight and step, in order of execution.

        Args:
            network: The name of the model in the result; by default its name from `gl.build`, or its class.

        Raises:
            GradlabError: If no step was measured.
        """
        rows, totals = [], []
        for step, norms in self._fetched():
            rows += self._rows(step, norms)
            totals.append(self._total(step, norms))
        facts = {
            "depth": depth_of(self.model),
            "description": description_of(self.model),
            "coverage": coverage_of(self.model, self.layers.values()).as_record(),
            "totals": totals,
        }
        whole = any(not hasattr(part.parameter, "placements") for part in self._parts)
        notes = [
            *gradient_notes(rows),
            *shared_notes(self.layers.values()),
            *(self.ranks.unmerged_notes() if whole else ()),
            *self._added(vectors=self._vectors),
        ]
        return GradientsResult.from_rows(self._name(network), rows, notes, facts)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of `result` as plain values.

        Raises:
            GradlabError: If no step was measured.
        """
        return [row for step, norms in self._fetched() for row in self._rows(step, norms)]

    def totals(self) -> list[dict[str, Any]]:
        """Return the values for all parts together: one dict per step, like `rows` but without a layer.

        Raises:
            GradlabError: If no step was measured.
        """
        return [self._total(step, norms) for step, norms in self._fetched()]

    def _fetched(self) -> Iterator[tuple[_Step, list[tuple[float, float]]]]:
        """Yield every step with the norms of the gradient and value of each part, copied in one transfer."""
        if not self._steps:
            raise GradlabError(
                "the probe has measured no step: call probe.step() after each backward pass, before the optimizer's "
                f"step{'' if not self.steps else f'; the schedule left out all {self.steps} so far'}"
            )
        wait_for_all(self.model)
        values = torch.cat([block.to(self._blocks[0].device) for block in self._blocks])[: len(self._steps)].cpu()
        for step, norms in zip(self._steps, values, strict=True):
            # The norms of the existing gradients come first, then those of all parts.
            found = iter(norms[: step.count].tolist())
            gradients = [math.nan if reason else next(found) for reason in step.absent]
            yield step, list(zip(gradients, found, strict=True))

    def _rows(self, step: _Step, norms: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
        """Make the rows of one step."""
        rows = []
        for index, name in enumerate(self._executed.ordered(), 1):
            row = self.layers[name]
            numbers = [self._numbers[part.key] for part in row.parts]
            measured = _together(step, norms, numbers, row.numel)
            described = {"layer": name, "index": index, "kind": row.kind, "shortcut": row.shortcut}
            rows.append(described | measured | {"step": step.step})
        return rows

    def _total(self, step: _Step, norms: Sequence[tuple[float, float]]) -> dict[str, Any]:
        """Compute the values for all parts together, counting no element of a parameter twice."""
        whole = {id(part.parameter) for part in self._parts if part.rows is None}
        once = [n for n, part in enumerate(self._parts) if part.rows is None or id(part.parameter) not in whole]
        numel = sum(self._parts[number].numel for number in once)
        return {"step": step.step, **_together(step, norms, once, numel)}


def _together(step: _Step, norms: Sequence[tuple[float, float]], numbers: Sequence[int], numel: int) -> dict[str, Any]:
    """Compute the values of several parts as if they were one."""
    there = [norms[number][0] for number in numbers if step.absent[number] is None]
    grad_norm = math.hypot(*there) if there else math.nan
    weight_norm = math.hypot(*(norms[number][1] for number in numbers))
    return {
        "numel": numel,
        "weight_norm": weight_norm,
        "grad_norm": grad_norm,
        "grad_rms": grad_norm / math.sqrt(numel) if numel else math.nan,
        "relative": grad_norm / weight_norm if weight_norm else math.nan,
        "non_finite": bool(there) and not math.isfinite(grad_norm),
        "absent": None if there else step.absent[numbers[0]],
    }


def _home(model: nn.Module, part: Part) -> tuple[dict[str, Any], str] | None:
    """Return the dict and key under which a module holds a parameter; None for a scripted module, which has no dict."""
    name, _, key = part.name.rpartition(".")
    module = model.get_submodule(name)
    return None if isinstance(module, torch.jit.ScriptModule) else (module._parameters, key)
