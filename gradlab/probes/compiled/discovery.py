"""At which marks the responses of an eager pass were found."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass

from torch import Tensor

from gradlab.probes.compiled.entry import CannotCompile
from gradlab.probes.finder import Observer, Part, ResponseFinder, Site

Passing = tuple[int, int]
"""The number of a mark, and how often a tensor had passed it in the pass, counted from 1."""


@dataclass(frozen=True)
class Plan:
    """Where the responses of a pass are.

    Attributes:
        places: Every site and where its response passed, in order.
        norms: The name of the normalization of every site that has one.
        calls: How often each mark was passed, in the order of the marks' numbers.
        without_graph: Where responses passed that had no graph, where gradients are measured.
    """

    places: tuple[tuple[Site, Passing], ...]
    norms: tuple[tuple[Site, str], ...]
    calls: tuple[tuple[int, int], ...]
    without_graph: tuple[Passing, ...] = ()

    @property
    def passings(self) -> list[Passing]:
        """Where responses passed: their rows in a block, which sites with one response share."""
        return [*dict.fromkeys(passing for _, passing in self.places)]


class Discovery:
    """An observer in front of another, which notes the mark at which each response passes by.

    Args:
        observer: The observer that measures.
        gradients: Whether it measures gradients.
    """

    def __init__(self, observer: Observer, gradients: bool = False) -> None:
        self.observer, self._gradients = observer, gradients
        self._without_graph: set[Site] = set()
        self._found: dict[Site, Passing | None] = {}
        self._calls: Counter[int] = Counter()
        self._last: weakref.ref[Tensor] | None = None
        self._passing: Passing = 0, 0
        # The site observed last, if its tensor has passed no mark so far.
        self._open: tuple[Site, weakref.ref[Tensor]] | None = None

    def begin(self) -> None:
        """Forget the pass before."""
        self._found, self._calls, self._last, self._open = {}, Counter(), None, None
        self._without_graph = set()

    def marked(self, number: int, tensor: Tensor) -> None:
        """Handle a tensor that passes a mark; hooks of the finder may have come before, or come next."""
        self._calls[number] += 1
        self._last, self._passing = weakref.ref(tensor), (number, self._calls[number])
        if self._open is not None and self._open[1]() is tensor:
            self._found[self._open[0]] = self._passing
        self._open = None

    def observe(self, site: Site, response: Tensor, part: Part | None) -> object:
        """See `Observer`."""
        self._open = None
        if self._gradients and not response.requires_grad:
            self._without_graph.add(site)
        if part is not None or response.is_complex():
            self._found[site] = None
        elif self._last is not None and self._last() is response:
            self._found[site] = self._passing
        else:
            self._found[site] = None
            self._open = site, weakref.ref(response)
        return self.observer.observe(site, response, part)

    def discard(self, site: Site, observation: object) -> None:
        """See `Observer`."""
        self._found.pop(site, None)
        self._without_graph.discard(site)
        self.observer.discard(site, observation)

    def finish(self, whole: bool) -> None:
        """See `Observer`."""
        self.observer.finish(whole)

    def plan(self, finder: ResponseFinder) -> Plan:
        """Return where the responses of the last pass are.

        Raises:
            CannotCompile: If some are not inputs or outputs of modules, so that compiled code would not show them.
        """
        if finder.by_functions:
            raise CannotCompile("functions may apply weights or normalize outside of modules")
        elsewhere = [site.layer for site, passing in self._found.items() if passing is None]
        if elsewhere:
            raise CannotCompile(f"{elsewhere[0]}: its response is not the one tensor that a module returns")
        if not self._found:
            raise CannotCompile("no layer ran")
        places = tuple((site, passing) for site, passing in self._found.items() if passing is not None)
        norms = tuple((site, finder.norms[site]) for site, _ in places if site in finder.norms)
        without = tuple(passing for site, passing in places if site in self._without_graph)
        return Plan(places, norms, tuple(sorted(self._calls.items())), without)
