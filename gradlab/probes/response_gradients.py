"""The size of the loss's gradient with respect to every layer's response and every block's output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradlab.errors import NothingSeen, UsageError
from gradlab.probes.backward_passes import BackwardPasses
from gradlab.probes.cleared import ClearedGradients
from gradlab.probes.coverage import depth_of, description_of
from gradlab.probes.finder import Part, ResponseFinder, Site
from gradlab.probes.forward_watch import GraphWatch, Watch, without_failed
from gradlab.probes.gradient_notes import gradient_notes
from gradlab.probes.outputs import with_graph
from gradlab.probes.ranks import TIMEOUT, Ranks, joint_order, uneven_notes
from gradlab.probes.response_steps import (
    RankGradients,
    SiteGradients,
    WatchedStep,
    merged_steps,
    refuse_recomputed,
    unseen_notes,
    whole_gradients,
)
from gradlab.probes.schedule import Schedule, StepProbe
from gradlab.probes.selection import Selection, find_blocks, layer_kind, select_layers
from gradlab.probes.site_moments import take_in
from gradlab.probes.streams import wait_for_all
from gradlab.probes.targets import NOT_RUN, response_targets
from gradlab.probes.tensor_layout import LayoutWatch, refuse_gradient_of_parts
from gradlab.probes.unmeasured import reasons, response_coverage, scripted_norm_notes, unmeasured_notes
from gradlab.results.gradients.result import GradientsResult
from gradlab.stats import l2_norms

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler
    from torch.distributed import ProcessGroup

    from gradlab.probes.compiled import GradientRoute


class ResponseGradients(StepProbe):
    """Measures the L2 norm and RMS of ∂loss/∂response for every layer, and of ∂loss/∂output for every block.

    The response of a layer is its output after normalization and before any other nonlinearity or addition (He et
    al. 2015, arXiv:1512.03385, §4.2).

        with gl.ResponseGradients(model) as probe:
            for images, labels in loader:
                loss_function(model(images), labels).backward()
                probe.step()
                optimizer.step()
                optimizer.zero_grad()
        probe.result()

    The loss itself is differentiated: if it is a mean over the batch, gradients shrink as the batch grows. The RMS is
    over all elements: images, channels and positions. Each gradient is reduced when it arrives, on the model's device,
    without synchronization until the result is requested. In-place operations on a response do not matter: the
    gradient is taken with respect to the value before them, after all hooks on its tensor. A model that was compiled as
    a whole stays so, as with `ResponseStd`; gradients of several losses through one graph have it run eagerly.

    A step comprises what happens between two calls of `step`; without any call, everything is one step. Responses of
    several forward passes, as for micro-batches, are joined into one with more elements. Gradients of several losses
    through one graph (`retain_graph`) are added before the norm is taken. Passes of `torch.autograd.grad`, which add
    to no parameter's gradient, and those that fail are ignored. If gradients are cleared between the passes of a step,
    the result notes it. See `ResponseStd` for what a response and a call are.

    In a distributed run, `result` is a call that every rank makes, and has the gradient of the mean of the ranks'
    losses with respect to the responses of all ranks: where each rank's loss is a mean over equally many examples,
    that of the mean over all of them. It is the loss whose gradient `DistributedDataParallel` and `fully_shard` give
    the parameters: with R ranks, the squares of the ranks' norms are added and the root is divided by R.

    Args:
        model: Any `torch.nn.Module`.
        layers: The layers to measure: names or globs, a class, a predicate, or None for every weight that is applied
            to a signal (see `response_targets`). A module that is not a weight layer is measured by its own output.
        blocks: The modules whose outputs are measured separately; None for the network's building blocks (see
            `find_blocks`).
        every: The number of steps from one measurement to the next, or a predicate of the step number (`log_spaced`).
        scaler: The GradScaler of mixed-precision training, whose scale is divided out.
        process_group: The ranks to merge; None for all of them, where torch.distributed is initialized.
        local: Whether to measure this rank's own loss and examples alone, which the result then says.
        timeout: Seconds for which a result waits for the other ranks, until an error names those that are missing.

    Raises:
        UsageError: If no layer is selected.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Selection = None,
        *,
        blocks: Selection = None,
        every: Schedule = 1,
        scaler: GradScaler | None = None,
        process_group: ProcessGroup | None = None,
        local: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(model, Ranks(process_group, local, timeout), every, scaler)
        if next(self.model.parameters(), None) is None:
            raise UsageError(f"{type(self.model).__name__} has no parameters: there is no gradient to measure")
        self.targets = response_targets(self.model, layers)
        self.blocks = find_blocks(self.model) if blocks is None else select_layers(self.model, blocks)
        self._route = self._route_of(model)
        finder = None if self._route is None else self._route.finder
        self._finder = finder or ResponseFinder(self.model, self.targets, self, self.blocks)
        self._split = LayoutWatch(self.model)
        self._passes = BackwardPasses(self.model)
        self._cleared = ClearedGradients(self.model)
        # Sites in order of execution; those that further micro-batches repeat keep their place.
        self._sites: dict[Site, None] = {}
        # The sites that the current pass has reached so far.
        self._seen: dict[Site, bool] = {}
        self._watches: list[Watch] = []
        self._steps: list[WatchedStep] = []
        self._open: WatchedStep | None = None
        self.retains = False

    def _route_of(self, model: nn.Module) -> GradientRoute | None:
        if not self._compiled:
            return None
        # What torch has for compiled code is loaded where there is some.
        from gradlab.probes.compiled import gradient_route

        return gradient_route(model, self.targets, self, self.blocks)

    @property
    def _needs_hooks(self) -> bool:
        # A route runs compiled code, and says what it does not run.
        return self._route is None

    def _attach(self, stack: ExitStack) -> None:
        self._split.attach(stack)
        (self._route or self._finder).attach(stack)

    def observe(self, site: Site, response: Tensor, part: Part | None) -> Watch | None:
        """See `Observer`."""
        tensor = with_graph(response)
        self._seen[site] = self._seen.get(site, False) or tensor is not None
        if not self.due or tensor is None:
            return None
        refuse_gradient_of_parts(site.layer, tensor)
        self._split.local(site, tensor, [self._finder.norms.get(site, ""), site.layer])
        watch = Watch(tensor, part, self._passes.counts, lambda watch: self.arrived(watch, site))
        self._watches.append(watch)
        return watch

    def discard(self, site: Site, observation: object) -> None:
        """See `Observer`."""
        if isinstance(observation, Watch):
            observation.remove()

    def finish(self, whole: bool) -> None:
        """See `Observer`."""
        self.ranks.remember()
        seen, watches = self._seen, self._watches
        self._seen, self._watches = {}, []
        if not whole:
            for watch in watches:
                watch.remove()
            return
        self.ran(seen)

    def ran(self, sites: Mapping[Site, bool]) -> None:
        """Handle a pass in which sites ran, with or without a graph."""
        self._undo_failed()
        self._sites |= dict.fromkeys(sites)
        if self.due:
            self._cleared.look(self.steps)
            ran = self._step().ran
            for site, graph in sites.items():
                ran[site] = ran.get(site, False) or graph

    def arrived(self, watch: Watch | GraphWatch, site: Site) -> None:
        """Handle the arrival of a gradient at a watch, or of the reason why there is none."""
        self.retains |= watch.retains
        first = self._passes.follow(watch)
        # A gradient belongs to the step in which it arrives, regardless of that of the forward pass.
        if self._stack is not None and self.due:
            if first:
                self._cleared.arrive(self.steps)
            self._step().watches[watch] = site

    def _step(self) -> WatchedStep:
        if self._open is None:
            self._open = WatchedStep(self.steps)
        return self._open

    def _undo_failed(self) -> None:
        """Forget what came of backward passes that an exception has ended."""
        failed = self._passes.failed()
        if failed and (step := self._open) is not None:
            step.watches = without_failed(step.watches, failed)

    def _measure(self) -> None:
        self._undo_failed()
        step = self._step()
        self._steps.append(self._closed(step))
        self._open = None
        self._cleared.begin()
        for watch in step.watches:
            watch.reset()

    def _closed(self, step: WatchedStep) -> WatchedStep:
        """Return the step with all norms computed at once, before the scaler changes the scale of the loss."""
        rows: dict[Site, list[Tensor]] = {}
        lost: dict[Site, str] = {}
        numel: dict[Site, int] = {}
        for watch, site in step.watches.items():
            found = watch.rows()
            if watch.lost:
                lost[site] = watch.lost
            elif found is not None:
                rows.setdefault(site, []).append(found)
                numel[site] = numel.get(site, 0) + watch.numel
        rows = {site: found for site, found in rows.items() if site not in lost}
        if not rows:
            return replace(step, watches={}, lost=lost)
        norms = l2_norms([torch.cat(found) if len(found) > 1 else found[0] for found in rows.values()])
        numel = {site: numel[site] for site in rows}
        return replace(step, watches={}, lost=lost, numel=numel, norms=norms / self._scale(norms.device))

    def result(self, network: str | None = None) -> GradientsResult:
        """Return the measurement so far: one row per layer, call and step in order of execution, then those of blocks.

        Args:
            network: The name of the model in the result; by default its name from `gl.build`, or its class.

        Raises:
            GradlabError: If no gradient of any response was seen, or ranks have measured different steps.
        """
        passes = None if self._route is None else self._route.passes
        every = self.ranks.gather((self._measured(), self._split.layout, passes), "ResponseGradients.result()")
        by_rank = [measured for measured, *_ in every]
        refuse_recomputed([*self._steps, *([] if self._open is None else [self._open])], self._finder)
        steps = merged_steps(whole_gradients(by_rank, [layout for _, layout, _ in every], self.ranks))
        if not any(step.norms or step.lost for step in steps):
            raise NothingSeen(
                "the probe saw no gradient of a response of a measured layer: run model(x) and loss.backward() inside "
                "the `with` block, with something that requires a gradient, and not inside a compiled function, or "
                "choose layers that the model applies with layers="
            )
        take_in(self._finder, [target for rank in by_rank for target in rank.targets.items()])
        sites = joint_order([rank.sites for rank in by_rank])
        rows = [row for step in steps for row in self._rows(step, sites)]
        left_out = reasons(self._finder)
        coverage = response_coverage(self._finder, self._finder.places, left_out)
        facts = {
            "depth": depth_of(self.model),
            "description": description_of(self.model),
            "coverage": coverage.as_record(),
        }
        told = {name: reason for name, reason in left_out.items() if reason != NOT_RUN}
        uneven = uneven_notes([{site: site.layer for site in rank.sites} for rank in by_rank], self.ranks)
        unseen = unseen_notes(by_rank)
        unmeasured = [*unmeasured_notes(told), *scripted_norm_notes(self.model)]
        notes = [*gradient_notes(rows), *self._cleared.notes(), *unseen, *unmeasured, *self.ranks.notes(), *uneven]
        if self._route is not None:
            notes += self._route.notes([passes for *_, passes in every])
        return GradientsResult.from_rows(self._name(network), rows, notes, facts)

    def _measured(self) -> RankGradients:
        """Return what this rank has measured, with one transfer from its device."""
        wait_for_all(self.model)
        self._undo_failed()
        steps = list(self._steps)
        # A pass after the last step, such as validation, is not a step.
        if self._open is not None and (self._open.watches or not steps):
            steps.append(self._closed(self._open))
        found = [step.norms for step in steps if step.norms is not None]
        norms = iter(torch.cat([norms.to(found[0].device) for norms in found]).tolist() if found else ())
        there = [
            SiteGradients(step.step, step.ran, step.lost, step.numel, {site: next(norms) for site in step.numel})
            for step in steps
        ]
        targets = {layer: target.name for layer, target in self._finder.places.items()}
        return RankGradients(there, [*self._sites], targets, dict(self._finder.unseen))

    def _rows(self, step: SiteGradients, every: Sequence[Site]) -> list[dict[str, Any]]:
        rows = []
        for block in (False, True):
            sites: Iterable[Site] = [site for site in every if site.block == block]
            for index, site in enumerate([*sites, *(() if block else self._never_run())], 1):
                rows.append({"layer": site.layer, "index": index, **self._described(site), **step.row(site)})
        return rows

    def _never_run(self) -> list[Site]:
        """Return the layers that were never called, except for weights that are not applied to a signal."""
        left_out = reasons(self._finder)
        return [
            Site(name, 1)
            for name, target in self.targets.chosen.items()
            if name not in self._finder.places and all(left_out.get(row.name) == NOT_RUN for row in target.rows)
        ]

    def _described(self, site: Site) -> dict[str, Any]:
        if site.block:
            return {"kind": layer_kind(self.blocks[site.layer]), "shortcut": False}
        target = self._finder.places.get(site.layer) or self.targets.chosen[site.layer]
        return {"kind": target.kind, "shortcut": target.shortcut}
