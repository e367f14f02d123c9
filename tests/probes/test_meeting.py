"""Ranks that wait for each other agree on who is there, whenever each of them arrives.

Two ranks take turns in one process: the second makes its whole call before one operation of the first on the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gradlab.errors import GradlabError
from gradlab.probes.meeting import meet

OPERATIONS = 8
"""More than a rank does to the store in one call."""


class InterruptedStore:
    """A store of torch.distributed, before the n-th operation on which something else happens."""

    def __init__(self, number: int, happen: Callable[[], None]) -> None:
        self._left, self._happen, self._store = number, happen, torch.distributed.HashStore()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self._left -= 1
            if not self._left:
                self._happen()
            return getattr(self._store, name)(*arguments)

        return call


def both(number: int, monkeypatch: pytest.MonkeyPatch) -> list[list[str] | None]:
    """Return what the two ranks have heard, None for an error, if the second comes before an operation of the first."""
    present: list[int] = []
    heard: dict[int, list[str] | None] = {}

    def call(rank: int) -> None:
        present.append(rank)
        try:
            heard[rank] = meet("result()", [0, 1], "all", 0.001, "call it on every rank", f"from {rank}")
        except GradlabError:
            heard[rank] = None
        present.pop()

    store = InterruptedStore(number, lambda: call(1))
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: present[-1])
    call(0)
    if 1 not in heard:
        call(1)
    return [heard[0], heard[1]]


def test_all_ranks_pass_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [both(number, monkeypatch) for number in range(1, OPERATIONS + 1)]
    assert all(first == second for first, second in found)
    # The second gives up the first if it comes before that one has written its key, and is given up after its own.
    assert [first for first, _ in found] == [*[None] * 2, *[["from 0", "from 1"]] * 4, *[None] * 2]
