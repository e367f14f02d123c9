"""Gradients of responses in compiled code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from gradlab.probes.backward_passes import BackwardPasses, accumulates_into, accumulation_node, keeps_graph
from gradlab.probes.compiled.compiled_pass import CompiledPass
from gradlab.probes.compiled.discovery import Passing
from gradlab.probes.compiled.element_counts import element_counts
from gradlab.probes.compiled.entry import Entry
from gradlab.probes.compiled.proof import GRADIENTS, Proof
from gradlab.probes.compiled.route import CompiledRoute, Kind, usable_entry
from gradlab.probes.finder import Observer, Site
from gradlab.probes.forward_watch import GraphWatch
from gradlab.probes.hooks import unwrap
from gradlab.probes.targets import Targets
from gradlab.stats.custom_ops import watch_gradient

SOME_LEAVES = "some leaves only"
"""Why a gradient is not known: the backward pass was told for which leaves it is."""

SEVERAL_LOSSES = "several losses go through one graph"

Taken = Callable[[int, Tensor], None]


class GradientObserver(Observer, Protocol):
    """The interface of what measures gradients of responses."""

    @property
    def due(self) -> bool:
        """Whether the current step is measured."""

    @property
    def retains(self) -> bool:
        """Whether a backward pass has retained its graph for another."""

    def ran(self, sites: Mapping[Site, bool]) -> None:
        """Handle a pass in which sites ran, with or without a graph."""

    def arrived(self, watch: GraphWatch, site: Site) -> None:
        """Handle the arrival of a gradient at a watch, or of the reason why there is none."""


class GradientPass(CompiledPass):
    """Passes whose backward passes give the sum of squares of each response's gradient.

    Every pass has a number for each response, which has no influence on the model's output. What autograd computes as
    the gradient of the number is the sum of squares (see `gradlab.stats.custom_ops`), so that it is part of the
    backward graph as any other gradient.

    Args:
        model: The model, not compiled.
        entry: How it was compiled.
        proof: Holds what is traced against the plan.
        device: The device of the responses.

    Attributes:
        numel: The number of elements of each response with a graph in the last pass, by its place in `Plan.passings`.
    """

    def __init__(self, model: nn.Module, entry: Entry, proof: Proof, device: torch.device) -> None:
        # The same list in every pass, which compiled code reads.
        parts = self._parts = list[Tensor]()
        self._device, self._passes = device, BackwardPasses(model)
        self.numel: dict[Any, int] = {}
        self._taken: Taken | None = None
        self._missed: Callable[[], None] | None = None

        def marked(number: int, tensor: Tensor) -> Tensor:
            copy: Tensor = watch_gradient(tensor, parts, ~number)
            return copy

        super().__init__(model, entry, proof, marked)

    def watch_next(self, taken: Taken | None, missed: Callable[[], None]) -> None:
        """Say what is to receive the gradients of the next pass.

        Args:
            taken: A function called in every backward pass with the place of each response in `Plan.passings` that a
                gradient has reached, and the sum of its squares; None for no function.
            missed: A function called in backward passes that count and compute no such sums.
        """
        self._taken, self._missed = taken, missed

    def _begin(self) -> Callable[[], None]:
        with torch.inference_mode(False), torch.enable_grad():
            # Leaves, as torch's tracer warns of others, whose gradients it looks for.
            self._parts[:] = [
                torch.zeros((), dtype=torch.float64, device=self._device, requires_grad=True)
                for _ in self.plan.passings
            ]
        if self._taken is not None:
            for row, part in enumerate(self._parts):
                part.register_hook(partial(self._taken, row))
        return self._parts.clear

    def _after(self, graph: fx.Graph) -> Callable[[Sequence[Any], Any], None]:
        copies = graph.find_nodes(op="call_function", target=watch_gradient)
        rows = [copy.args[2] for copy in copies]
        counts = element_counts(graph, [copy.args[0] for copy in copies])

        def after(inputs: Sequence[Any], outputs: Any) -> None:
            self.numel = dict(zip(rows, counts(inputs), strict=True))
            self._listen(outputs)

        return after

    def _listen(self, outputs: Any) -> None:
        """Have passes told that reach no response."""
        graphs = [output.grad_fn for output in outputs if isinstance(output, Tensor) and output.grad_fn is not None]
        parts, missed = [*self._parts], self._missed
        if graphs and self._taken is not None and missed is not None:

            def arriving(_: Any) -> None:
                reached = any(accumulates_into(accumulation_node(part)) for part in parts)
                if not reached and self._passes.counts():
                    missed()

            graphs[0].register_prehook(arriving)


class GradientRoute(CompiledRoute):
    """The route of a probe that measures gradients of responses."""

    operation = GRADIENTS

    def __init__(
        self, model: nn.Module, entry: Entry, targets: Targets, observer: GradientObserver, blocks: dict[str, nn.Module]
    ) -> None:
        super().__init__(model, entry, targets, observer, blocks)
        self.observer = observer
        self._refusal: str | None = None

    def _kind(self, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: bool) -> Kind:
        given = [value.requires_grad for value in _pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        weights = [parameter.requires_grad for parameter in self.model.parameters()]
        return *super()._kind(args, kwargs, sizes), tuple(given), tuple(weights)

    def _make(self, proof: Proof) -> GradientPass:
        return GradientPass(self.model, self.entry, proof, self.device)

    def _obstacle(self) -> str | None:
        if self.observer.retains:
            return SEVERAL_LOSSES
        if any(module._backward_hooks or module._backward_pre_hooks for module in self.model.modules()):
            return "modules have hooks for the backward pass"
        return self._refusal or super()._obstacle()

    def _call(self, compiled: CompiledPass, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert isinstance(compiled, GradientPass)
        plan = compiled.plan
        # Of a site that another kind of pass has normalized, this one's response is another.
        normalized = dict(plan.norms)
        other = [site for site, _ in plan.places if site in self.finder.norms and site not in normalized]
        sites = {site: passing for site, passing in plan.places if site not in other}
        watched = [(site, place) for site, place in sites.items() if place not in plan.without_graph]
        by_place: dict[Passing, list[tuple[GraphWatch, Site]]] = {passing: [] for passing in plan.passings}
        for site, place in watched:
            by_place[place].append((GraphWatch(), site))
        watches = [*by_place.values()]

        def taken(row: int, square: Tensor) -> None:
            for watch, site in watches[row]:
                watch.take(square)
                self.observer.arrived(watch, site)
            if keeps_graph():
                self._refusal = SEVERAL_LOSSES

        def missed() -> None:
            if watched:
                self._refusal = "a backward pass is for some leaves only"
            for watch, site in chain(*watches):
                watch.lost = SOME_LEAVES
                self.observer.arrived(watch, site)

        compiled.watch_next(taken if self.observer.due else None, missed)
        output = compiled(args, kwargs)
        for row, found in enumerate(watches):
            for watch, _ in found:
                watch.numel = compiled.numel[row]
        for site in other:
            self.finder.unseen[site] = self.finder.unseen.get(site, 0) + 1
        self.observer.ran({site: passing not in plan.without_graph for site, passing in sites.items()})
        return output


def gradient_route(
    model: nn.Module, targets: Targets, observer: GradientObserver, blocks: dict[str, nn.Module]
) -> GradientRoute | None:
    """Return the route of a compiled model, or None if it is not compiled or can have none.

    Args:
        model: The model as the probe was given it.
        targets: What is measured.
        observer: What measures eager passes, and receives what compiled ones have measured.
        blocks: The modules whose outputs are measured as well.
    """
    entry = usable_entry(model)
    return None if entry is None else GradientRoute(unwrap(model), entry, targets, observer, blocks)
