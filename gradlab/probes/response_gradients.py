"""The size of the loss's gradient with respect to every layer's response and every block's output."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError
from gradlab.probes.finder import ResponseFinder, Site, output_tensor
from gradlab.probes.gradient_notes import gradient_notes
from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.schedule import Schedule, StepProbe
from gradlab.probes.selection import Selection, find_blocks, layer_kind, select_layers, select_weight_layers
from gradlab.results import GradientsResult
from gradlab.stats import l2_norms, row_norms

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler


@dataclass
class _Step:
    """One measured step: which sites ran, with a graph or without, and what arrived at them.

    Attributes:
        step: Its number.
        ran: Whether each site's value was part of a graph.
        numel: Over how many elements the gradients of each site were, in all backward passes of the step.
        rows: Norms of rows of these gradients, until they are joined.
        norms: Of the sites in the order of `numel`, with the loss's scale as it was then divided out.
    """

    step: int
    ran: dict[Site, bool] = field(default_factory=dict)
    numel: dict[Site, int] = field(default_factory=dict)
    rows: dict[Site, list[Tensor]] = field(default_factory=dict)
    norms: Tensor | None = None


class ResponseGradients(StepProbe):
    """Measures L2 norm and RMS of ∂loss/∂response of every layer, and of ∂loss/∂output of every block.

    The response of a layer is its output after normalization and before any other nonlinearity or addition (He et
    al. 2015, arXiv:1512.03385, §4.2).

        with gl.ResponseGradients(model) as probe:
            for images, labels in loader:
                loss_function(model(images), labels).backward()
                probe.step()
                optimizer.step()
                optimizer.zero_grad()
        probe.result()

    The loss is differentiated as it is: with the mean over a batch, gradients shrink as the batch grows. The RMS is
    over all elements: images, channels and positions. The backward passes of one step are taken together; without
    any call of `step`, all are one step. Each gradient is reduced when it arrives, on the model's device, which
    nothing waits for until the result is asked for. In-place operations on a response do not matter: the gradient is
    that with respect to the value which the response had.

    Args:
        model: Any `torch.nn.Module`.
        layers: What to measure: a glob, a class, a predicate, or None for every convolution and linear layer but
            the projections of shortcuts (see `select_weight_layers`).
        blocks: The modules whose outputs are measured apart; None for the elements of the network's rows of blocks
            (see `find_blocks`).
        every: Measure every so many steps, or where a function of the step's number says so (`log_spaced`).
        scaler: The GradScaler of mixed-precision training: its scale is divided out.

    Raises:
        UsageError: When no layer is selected.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Selection = None,
        *,
        blocks: Selection = None,
        every: Schedule = 1,
        scaler: GradScaler | None = None,
    ) -> None:
        super().__init__(model, every, scaler)
        self.layers = select_weight_layers(self.model, layers)
        self.blocks = find_blocks(self.model) if blocks is None else select_layers(self.model, blocks)
        self._finder = ResponseFinder(self.model, self.layers, self._observe, self._discard)
        self._handles: dict[Site, RemovableHandle] = {}
        self._block_calls: dict[str, int] = {}
        # In order of execution; what a step of several micro-batches adds keeps its place.
        self._sites: dict[Site, None] = {}
        self._block_sites: dict[Site, None] = {}
        self._steps: list[_Step] = []
        self._open: _Step | None = None

    def _attach(self, stack: ExitStack) -> None:
        stack.enter_context(self.model.register_forward_pre_hook(Hook(self._start)))
        for name, module in self.blocks.items():
            stack.enter_context(module.register_forward_hook(Hook(self._after_block(name))))
        self._finder.attach(stack)

    def _start(self, module: nn.Module, args: Any) -> None:
        if not in_backward():
            self._block_calls.clear()

    def _after_block(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # A forward in the backward pass is a recomputation by activation checkpointing.
            if not in_backward():
                self._block_calls[name] = self._block_calls.get(name, 0) + 1
                site = Site(name, self._block_calls[name])
                self._block_sites.setdefault(site)
                self._watch(site, output_tensor(name, output))

        return hook

    def _observe(self, site: Site, response: Tensor) -> None:
        self._sites.setdefault(site)
        self._watch(site, response)

    def _discard(self, site: Site) -> None:
        if handle := self._handles.pop(site, None):
            handle.remove()

    def _watch(self, site: Site, tensor: Tensor) -> None:
        """Have the gradient of a tensor taken in when it arrives."""
        if not self.due:
            return
        if self._open is None:
            self._open = _Step(self.steps)
        step = self._open
        step.ran[site] = step.ran.get(site, False) or tensor.requires_grad
        if not tensor.requires_grad:
            return

        def arrived(gradient: Tensor) -> None:
            if self._open is not step or self._stack is None:
                return
            step.numel[site] = step.numel.get(site, 0) + gradient.numel()
            step.rows.setdefault(site, []).append(row_norms(gradient))

        self._handles[site] = tensor.register_hook(arrived)

    def _measure(self) -> None:
        self._steps.append(self._joined(self._open or _Step(self.steps)))
        self._open = None

    def _joined(self, step: _Step) -> _Step:
        """The step with its norms, all at once; the scaler changes the scale of the loss from step to step."""
        if not step.rows:
            return step
        norms = l2_norms([torch.cat(rows) if len(rows) > 1 else rows[0] for rows in step.rows.values()])
        return replace(step, rows={}, norms=norms / self._scale(norms.device))

    def result(self, network: str | None = None) -> GradientsResult:
        """The measurement so far: a row a layer, call and step, in order of execution, and after them the blocks'.

        Args:
            network: What to call the model; by default its name from `gl.build`, else its class.

        Raises:
            GradlabError: When no gradient of any response was seen.
        """
        steps = self._steps if self._open is None else [*self._steps, self._joined(self._open)]
        found = [step.norms for step in steps if step.norms is not None]
        if not found:
            raise GradlabError(
                "the probe saw no gradient of a response: run model(x) and loss.backward() inside the `with` block, "
                "with something that requires a gradient, and not inside a compiled function"
            )
        norms = iter(torch.cat([norms.to(found[0].device) for norms in found]).tolist())
        rows = []
        for step in steps:
            rows += self._rows(step, {site: next(norms) for site in step.numel})
        return GradientsResult.from_rows(self._name(network), rows, gradient_notes(rows) + self._notes())

    def _rows(self, step: _Step, norms: dict[Site, float]) -> list[dict[str, Any]]:
        rows = []
        ran = {site.layer for site in self._sites}
        never = [Site(name, 1) for name in self.layers if name not in ran]
        for block, sites in ((False, [*self._sites, *never]), (True, [*self._block_sites])):
            for index, site in enumerate(sites, 1):
                norm = norms.get(site, math.nan)
                numel = step.numel.get(site)
                rows.append(
                    {
                        "layer": site.layer,
                        "index": index,
                        "kind": layer_kind((self.blocks if block else self.layers)[site.layer]),
                        "response_grad_norm": norm,
                        "response_grad_rms": norm / math.sqrt(numel) if numel else math.nan,
                        "response_numel": numel,
                        "step": step.step,
                        "call": site.call,
                        "block": block,
                        "non_finite": site in norms and not math.isfinite(norm),
                        "absent": None if site in norms else _reason(step.ran.get(site)),
                    }
                )
        return rows

    def _notes(self) -> list[str]:
        return [
            f"{site.layer}: {count} calls were not normalized as the others were, and not measured"
            for site, count in self._finder.unseen.items()
        ]


def _reason(graph: bool | None) -> str:
    """Why a site has no gradient, by whether it ran with a graph, without, or not at all."""
    return {None: "not run", False: "no graph", True: "not reached"}[graph]
