"""Where processes of a distributed run wait for each other before an exchange, so that one that is missing is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from gradlab.errors import GradlabError

_HERE, _LATE = "here: ", "late"
"""What the key of a rank begins with, or what it is if another rank has given up waiting for it."""


def meet(what: str, ranks: Sequence[int], place: str, timeout: float, remedy: str, said: str = "") -> list[str]:
    """Wait until every rank makes this call, by keys in the store of torch.distributed, which any backend has.

    Each key is written once, by its own rank or by the first that gives it up, so that all ranks agree on who is there.

    Args:
        what: The call that all ranks have to make, for messages.
        ranks: The global numbers of the ranks, this one's among them.
        place: Where they meet, the same on all of them, and another one for other ranks.
        timeout: Seconds to wait.
        remedy: What to do if a rank is missing, for messages.
        said: What this rank tells the others.

    Returns:
        What the ranks have said, in their order.

    Raises:
        GradlabError: If a rank does not make the same call in time, with its number, or if the store is gone.
    """
    own, store = torch.distributed.get_rank(), torch.distributed.distributed_c10d._get_default_store()
    place = f"gradlab/{place}/{what}"
    try:
        number = store.add(f"{place}/{own}", 1)
        keys = [f"{place}/{number}/{rank}" for rank in ranks]
        late = _write(store, keys[ranks.index(own)], _HERE + said) == _LATE
        heard = [] if late else _heard(store, keys, timeout)
    except RuntimeError as error:
        raise GradlabError(f"{what}: the rank that keeps the store of torch.distributed is gone") from error
    if late:
        raise GradlabError(f"{what}: another rank has given up waiting for rank {own}")
    missing = [rank for rank, value in zip(ranks, heard, strict=True) if value == _LATE]
    if missing:
        raise GradlabError(f"{what}: {named(missing)} of {len(ranks)} did not take part within {timeout:g} s: {remedy}")
    # All ranks have been past the meeting before, so that the store does not grow. Not every store deletes.
    with suppress(RuntimeError, NotImplementedError):
        store.delete_key(f"{place}/{number - 1}/{own}")
    return [value.removeprefix(_HERE) for value in heard]


def _heard(store: Any, keys: list[str], timeout: float) -> list[str]:
    """Return what the keys hold once all are written, and write those that are not in time."""
    try:
        store.wait(keys, timedelta(seconds=timeout))
    except torch.distributed.DistNetworkError:
        raise
    except RuntimeError:
        return [_write(store, key, _LATE) for key in keys]
    return [value.decode() for value in store.multi_get(keys)]


def _write(store: Any, key: str, value: str) -> str:
    """Write a key unless another rank has written it, and return what it holds."""
    held: str = store.compare_set(key, "", value).decode()
    if held == value:
        # Not every store wakes those who wait for a key when it is compared and set.
        store.set(key, value)
    return held


class ShardMeeting:
    """Ranks that hold shards of parameters, and wait for each other before norms are taken over all shards.

    Args:
        parameters: The parameters, of which those that are no DTensors do not matter.
        timeout: Seconds to wait.
    """

    def __init__(self, parameters: Iterable[Tensor], timeout: float) -> None:
        meshes = {tuple(p.device_mesh.mesh.flatten().tolist()) for p in parameters if hasattr(p, "device_mesh")}
        # In one order on all ranks, so that two of them never wait for each other at different meetings.
        self._meshes = sorted(mesh for mesh in meshes if len(mesh) > 1)
        self._timeout = timeout

    def meet(self, what: str, step: int | None = None) -> None:
        """Wait for the other ranks.

        Args:
            what: The call that all ranks have to make, for messages.
            step: The number of the step, which has to be the same on all of them.

        Raises:
            GradlabError: If a rank does not take part in time, or measures another step.
        """
        for ranks in self._meshes:
            place, remedy = f"shards {ranks}", "with sharded parameters, every rank measures the same steps"
            steps = meet(what, ranks, place, self._timeout, remedy, "" if step is None else str(step))
            if len(set(steps)) > 1:
                told = ", ".join(f"step {number} on rank {rank}" for rank, number in zip(ranks, steps, strict=True))
                raise GradlabError(
                    f"{what}: the ranks measure different steps ({told}): call step() as often on every rank, with "
                    "the same every="
                )


def named(ranks: Sequence[int]) -> str:
    """Return the words for some ranks by their numbers, the first eight of many."""
    shown = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"
