"""Batches dealt to processes that share them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def dealt(batches: Iterable[T], rank: int, ranks: int) -> Iterator[T]:
    """Return an iterator over one rank's batches: that of its own number and each that is `ranks` further on.

    Every batch goes to one rank, and ranks differ by at most one batch; a rank may have none.

    Args:
        batches: All batches, in the same order on every rank.
        rank: The number of the rank, from 0.
        ranks: The number of ranks.
    """
    return islice(batches, rank, None, ranks)
