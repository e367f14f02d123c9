"""The places at which a model has responses, and the interface of what receives them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

Part = tuple[int, int]
"""The index of a part of a tensor's last dimension, and the number of equal parts."""


class Site(NamedTuple):
    """One call of one layer in a forward pass, so that a layer called n times has n sites.

    Attributes:
        layer: The qualified name of the layer; for every output after the first, it includes the position, as in
            `lstm[1][0]`.
        call: The number of the call within one pass, counted from 1.
        block: Whether the site is the output of a block.
    """

    layer: str
    call: int
    block: bool = False


class Observer(Protocol):
    """The interface of an object that receives responses."""

    def observe(self, site: Site, response: Tensor, part: Part | None) -> object:
        """Process a response at once, as later operations may overwrite it, and return what `discard` is to receive."""

    def discard(self, site: Site, observation: object) -> None:
        """Undo all observations of a site, in this pass and before, since they were not of its response."""

    def finish(self, whole: bool) -> None:
        """Handle the end of a pass; the observations of an incomplete pass are to be dropped."""


class Pending(NamedTuple):
    """An output that may still turn out to be the input of a normalization.

    Attributes:
        site: The site.
        observation: What the observer has returned for it.
    """

    site: Site
    observation: object
