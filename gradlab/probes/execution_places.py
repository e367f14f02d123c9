"""The order of execution that several passes tell together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def in_order(known: Sequence[T], seen: Iterable[T]) -> list[T]:
    """Return the order of two passes together: what one of them has left out keeps its place behind the one before it.

    Args:
        known: The order so far.
        seen: What a pass has shown, in order.
    """
    order = list(known)
    place = 0
    for site in seen:
        if site in order:
            place = order.index(site) + 1
        else:
            order.insert(place, site)
            place += 1
    return order
