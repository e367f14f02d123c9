"""Responses and activations of the forward passes of a step, and gradients with respect to responses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gradlab.probes.applications import leave
from gradlab.probes.backward_passes import BackwardPasses
from gradlab.probes.finder import Part, ResponseFinder, Site
from gradlab.probes.forward_watch import Watch, without_failed
from gradlab.probes.identity import Remembered
from gradlab.probes.outputs import outside_transforms, plain, with_graph
from gradlab.probes.selection import Selection
from gradlab.probes.targets import response_targets
from gradlab.probes.tensor_layout import Layout, LayoutWatch, refuse_gradient_of_parts
from gradlab.probes.unmeasured import scripted_notes
from gradlab.probes.watch.activations import ActivationMode, ActivationSums, Range
from gradlab.probes.watch.sums import Sums, sums_for
from gradlab.results.grouping import some
from gradlab.stats import Workspace


@dataclass
class Window:
    """What passes have shown.

    Attributes:
        sums: Of responses, by site.
        activations: By layer, or by where they are computed.
        watches: Of gradients with respect to responses.
        passes: Those that came to their end.
    """

    sums: dict[Site, Sums] = field(default_factory=dict)
    activations: dict[str, ActivationSums] = field(default_factory=dict)
    watches: dict[Watch, Site] = field(default_factory=dict)
    passes: int = 0


class ResponseWatch:
    """Measures the responses of layers in all passes between two steps: those with a graph, which gradients come of.

    A pass under `no_grad`, as of validation, does not count. An activation belongs to the layer whose response it
    takes; any other one has the name of the module in which it is computed, and its own.

    Args:
        model: Any.
        layers: As of `response_targets`.
        measure: Of `responses`, `activations` and `response_gradients`.
        begun: Called before each pass that counts.
        sums: What is summed of activations.

    Attributes:
        order: Names of layers and activations, as they were first seen.
        window: Of the step under way.
        without_graph: Names of layers that ran without one, so that their responses have no gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Selection,
        measure: Collection[str],
        begun: Callable[[], None],
        sums: type[ActivationSums] = ActivationSums,
    ) -> None:
        self.responses, self.gradients = "responses" in measure, "response_gradients" in measure
        self.order: dict[str, None] = {}
        self.without_graph: dict[str, None] = {}
        self.window = Window()
        self.finder = ResponseFinder(model, response_targets(model, layers), self, begin=self._begin)
        self._split = LayoutWatch(model)
        self._begun, self._sums = begun, sums
        self._backward = BackwardPasses(model)
        self._mode = None
        if "activations" in measure:
            self._mode = ActivationMode(self._before, self._after, self._split.signals)
        self._inputs: Remembered[Site] = Remembered()
        self._unit_dim = -1
        self._room = Workspace()
        self._counting = self._resting = False
        self._pass = Window()
        # The sums before the pass under way, of the sites that it has reached.
        self._seen: dict[Site, Sums | None] = {}
        self._calls: Counter[str] = Counter()

    def attach(self, stack: ExitStack) -> None:
        """Register all hooks, their removal on the stack."""
        self._split.attach(stack)
        self.finder.attach(stack)
        if self._mode is not None:
            stack.callback(leave, self._mode)

    @property
    def layout(self) -> Layout:
        """How this rank takes part in tensor parallelism, with layers as sites."""
        return self._split.layout

    def notes(self) -> list[str]:
        """Sentences on what is scripted, and on layers whose gradients arrive at what a backward pass makes again."""
        again, places = self.finder.recomputed, self.finder.places
        recomputed = [
            layer
            for layer in self.without_graph
            if again & {places[layer].name, *(row.module for row in places[layer].rows)}
        ]
        notes = scripted_notes(self.finder)
        if recomputed:
            notes.append(
                f"{some(recomputed)}: reentrant activation checkpointing leaves the response without a graph; call "
                "checkpoint with use_reentrant=False for response_grad_rms"
            )
        return notes

    @contextmanager
    def resting(self) -> Iterator[None]:
        """A context in which forward passes do not count."""
        self._resting = True
        try:
            yield
        finally:
            self._resting = False

    def take(self) -> Window:
        """What the passes since the last call have shown; gradients that arrive later are no part of it."""
        window, self.window = self.window, Window()
        return window

    def undo_failed(self) -> bool:
        """Forget gradients of backward passes that an exception has ended, and return whether there were any."""
        failed = self._backward.failed()
        self.window.watches = without_failed(self.window.watches, failed)
        return bool(failed)

    def drop_earlier_gradients(self) -> None:
        """Forget the gradients of the passes before the backward pass under way."""
        task = torch._C._current_graph_task_id()
        for watch in [watch for watch in self.window.watches if watch.task != task]:
            watch.remove()
            del self.window.watches[watch]

    def drop(self) -> None:
        """Forget what the passes since the last call have shown."""
        window = self.take()
        for watch in window.watches:
            watch.remove()
        window.watches.clear()

    def _begin(self) -> None:
        self._counting = torch.is_grad_enabled() and not self._resting
        if self._counting:
            self._begun()
            if self._mode is not None:
                self._mode.__enter__()

    def observe(self, site: Site, response: Tensor, part: Part | None) -> Watch | None:
        """See `Observer`."""
        if not (self._counting if self.finder.passes.under_way else torch.is_grad_enabled() and not self._resting):
            return None
        self.order.setdefault(layer_of(site))
        if self._mode is not None:
            module = self.finder.places[site.layer].module
            self._unit_dim = -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else -1
        with torch._C.DisableTorchFunction():
            own = self._split.local(layer_of(site), plain(response), [self.finder.norms.get(site, ""), site.layer])
            if self.responses:
                with outside_transforms():
                    self._take_moments(site, own, part)
            watch = self._watched(site, response, part)
            if self._mode is not None and part is None:
                self._inputs.put(response, site)
        return watch

    def _take_moments(self, site: Site, response: Tensor, part: Part | None) -> None:
        if part is not None:
            response = response.chunk(part[1], -1)[part[0]]
        sums = self._marked(site)
        if sums is None:
            sums = self.window.sums[site] = sums_for(response)
        sums.update(response)

    def _marked(self, site: Site) -> Sums | None:
        """Return the sums of a site that the pass has reached, as they are before the pass if this is undone."""
        sums = self.window.sums.get(site)
        if site not in self._seen:
            self._seen[site] = sums
            if sums is not None:
                sums.mark()
        return sums

    def _watched(self, site: Site, response: Tensor, part: Part | None) -> Watch | None:
        if not self.gradients:
            return None
        tensor = with_graph(response)
        if tensor is None:
            if not response.requires_grad:
                self.without_graph.setdefault(site.layer)
            return None
        refuse_gradient_of_parts(site.layer, tensor)
        window = self.window

        def arrived(watch: Watch) -> None:
            self._backward.follow(watch)
            # One of an earlier step comes too late.
            if window is self.window:
                window.watches[watch] = site

        watch = Watch(tensor, part, self._backward.counts, arrived)
        self._pass.watches[watch] = site
        return watch

    def discard(self, site: Site, observation: object) -> None:
        """See `Observer`."""
        if site in self.window.sums:
            self._marked(site)
            # Assigned and not deleted: the site keeps its place in the order of execution.
            self.window.sums[site] = type(self.window.sums[site])()
        if isinstance(observation, Watch):
            observation.remove()

    def finish(self, whole: bool) -> None:
        """See `Observer`."""
        shown, self._pass = self._pass, Window()
        seen, self._seen = self._seen, {}
        if self._mode is not None:
            leave(self._mode)
            self._mode.gates.forget()
        self._inputs.take_all()
        self._split.signals.forget()
        self._calls.clear()
        if not whole:
            self._undo(seen, shown)
            return
        for name, activation in shown.activations.items():
            self.window.activations.setdefault(name, self._sums()).join(activation)
        self.window.passes += self._counting

    def _undo(self, seen: dict[Site, Sums | None], shown: Window) -> None:
        for site, before in seen.items():
            if before is None:
                self.window.sums.pop(site, None)
            elif site in self.window.sums:
                before.undo()
                self.window.sums[site] = before
        for watch in shown.watches:
            watch.remove()

    def _before(self, source: Tensor) -> Site | None:
        return self._inputs.take(source)

    def _after(self, known: object, name: str, output: Tensor, bounds: Range | int | None) -> ActivationSums:
        if isinstance(known, Site):
            layer = layer_of(known)
        else:
            place = f"{self.finder.passes.innermost}.{name}".removeprefix(".")
            self._calls[place] += 1
            layer = layer_of(Site(place, self._calls[place]))
        self.order.setdefault(layer)
        self.layout.parts[layer] = self.layout.parts.get(layer, "") or self._split.signals.of(output)
        output = self._split.local(layer, output, [])
        sums = self._pass.activations.setdefault(layer, self._sums())
        with torch._C.DisableTorchFunction(), outside_transforms():
            sums.add(name, output, self._unit_dim, bounds, self._room)
        return sums


def layer_of(site: Site) -> str:
    """The name of a site in tables: that of the layer, and which call of it in a pass, from the second on."""
    return site.layer if site.call == 1 else f"{site.layer} (call {site.call})"
