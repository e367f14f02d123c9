"""Work spread over the processes of a distributed run, each of which takes the next task when it has done one."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from gradlab.data.dealing import dealt
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.request import Progress
from gradlab.probes.ranks import alone

T = TypeVar("T")
R = TypeVar("R")

LOOK_EVERY = 0.1
"""Seconds between two looks at whether other ranks are done or have failed."""
TIMEOUT = timedelta(hours=2)
"""How long an exchange between ranks may take: one of them may be reading data or compiling."""
_CALLS = itertools.count()


class FailedElsewhere(GradlabError):
    """The failure of another rank, which reports it itself.

    Attributes:
        is_told: Whether there is nothing to print.
    """

    is_told = True


class MisusedElsewhere(FailedElsewhere, UsageError):
    """The invalid request that another rank reports."""


def _elsewhere(is_misuse: bool, words: str) -> FailedElsewhere:
    """Return the error of a rank whose failure, or another rank's, is told already; it has the same exit code."""
    return MisusedElsewhere(words) if is_misuse else FailedElsewhere(words)


@dataclass
class Team:
    """The processes that share one call.

    Attributes:
        rank: The number of this process.
        size: The number of processes.
        store: The store of the run, which all of them reach.
        place: Where in it this call has its entries, the same on all of them.
        shared: The numbers of the calls of `spread` within this one.
    """

    rank: int
    size: int
    store: Any
    place: str
    shared: Iterator[int] = field(default_factory=itertools.count)

    def fail(self, error: BaseException) -> bool:
        """Tell the other ranks of a failure, and return whether it is the first one."""
        kind = "misuse" if isinstance(error, UsageError) else "failure"
        words = f"{kind}\nrank {self.rank} of {self.size} on {socket.gethostname()}: {error}"
        own = words.encode(errors="replace")
        # The store may have gone with the rank that failed.
        with suppress(RuntimeError):
            return bool(self.store.compare_set(f"{self.place}/failed", "", own.decode()) == own)
        return False

    def check(self) -> None:
        """Raise an error if another rank has failed.

        Raises:
            FailedElsewhere: With the words of that rank.
        """
        if self.store.check([f"{self.place}/failed"]):
            kind, _, words = self.store.get(f"{self.place}/failed").decode().partition("\n")
            raise _elsewhere(kind == "misuse", words)


_TEAM: ContextVar[Team | None] = ContextVar("team", default=None)


def team() -> Team | None:
    """Return the processes that share the present call; None for one on its own."""
    return _TEAM.get()


@contextmanager
def together() -> Iterator[Team | None]:
    """Let all processes of a distributed run share the measurements within, which each of them calls.

        with gl.together():
            result = gl.degradation((20, 56), out="runs")

    In a script that torchrun or Slurm starts, networks, seeds and depths are spread over the processes, and `gl.train`
    trains one network by all of them. Each process gets the whole result. With a single process nothing changes.

    Raises:
        FailedElsewhere: If another process has failed; it raises its own error.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2 and not _initialized():
        yield None
        return
    own = not _initialized()
    if own:
        _initialize()
    store = distributed.distributed_c10d._get_default_store()
    there = Team(distributed.get_rank(), distributed.get_world_size(), store, f"gradlab/call {next(_CALLS)}")
    token = _TEAM.set(there if there.size > 1 else None)
    try:
        yield _TEAM.get()
    except BaseException as error:
        first = isinstance(error, FailedElsewhere) or there.fail(error)
        if isinstance(error, Exception) and not first:
            raise _elsewhere(isinstance(error, UsageError), str(error)) from error
        if isinstance(error, RuntimeError) and not isinstance(error, GradlabError) and _tells_of_loss(error):
            raise GradlabError(
                "another rank is gone, killed or out of memory: the same command goes on with what is complete"
            ) from error
        raise
    else:
        if own:
            distributed.destroy_process_group()
    finally:
        _TEAM.reset(token)


def _tells_of_loss(error: RuntimeError) -> bool:
    """Return whether an exchange has failed because another process is gone."""
    lost = ("onnection closed", "onnection reset", "onnection refused", "roken pipe")
    return isinstance(error, distributed.DistNetworkError) or any(words in str(error) for words in lost)


def _initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _initialize() -> None:
    """Join the processes, each of which has an accelerator of its own if there are enough of them.

    Raises:
        UsageError: If the environment does not say where the processes meet.
    """
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UsageError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set: start the processes by "
            "torchrun, or unset WORLD_SIZE"
        )
    local, place = int(os.environ.get("LOCAL_WORLD_SIZE") or 1), int(os.environ.get("LOCAL_RANK") or 0)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
        if torch.cuda.device_count() >= local:
            backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=TIMEOUT)


def spread(
    tasks: Sequence[T],
    do: Callable[[T], R],
    *,
    cost: Callable[[T], float] | None = None,
    progress: Progress | None = None,
    label: str = "tasks",
) -> list[R]:
    """Do all tasks, spread over the ranks within `together`, and return their results in the order of the tasks.

    Each rank takes the next task from a counter in the store when it is done with one, beginning with the costliest.
    A task itself is not shared. On one process this is a loop.

    Args:
        tasks: The tasks, the same on all ranks.
        do: A function that does one of them and returns what can be pickled.
        cost: The expected cost of a task in any unit; by default all cost the same.
        progress: A function that the first rank calls with the number of tasks done by all ranks.
        label: The label of the progress.

    Raises:
        FailedElsewhere: If another rank has failed.
    """
    present = team()
    if present is None:
        return [do(task) for task in tasks]
    place = f"{present.place}/spread {next(present.shared)}"
    order = sorted(range(len(tasks)), key=lambda number: -(cost(tasks[number]) if cost is not None else 0.0))
    own: dict[int, R] = {}
    with _on_its_own():
        while (turn := present.store.add(f"{place}/next", 1) - 1) < len(tasks):
            present.check()
            own[order[turn]] = do(tasks[order[turn]])
            present.store.add(f"{place}/done", 1)
            _tell(present, progress, label, present.store.add(f"{place}/done", 0), len(tasks))
    # No collective call waits here: another rank may be busy for hours, or fail.
    while (done := present.store.add(f"{place}/done", 0)) < len(tasks):
        present.check()
        _tell(present, progress, label, done, len(tasks))
        time.sleep(LOOK_EVERY)
    _tell(present, progress, label, done, len(tasks))
    found: list[dict[int, R]] = [{} for _ in range(present.size)]
    distributed.all_gather_object(found, own)
    every = {number: result for part in found for number, result in part.items()}
    return [every[number] for number in range(len(tasks))]


def ranks() -> int:
    """Return the number of processes that share the present call."""
    present = team()
    return 1 if present is None else present.size


def share(batches: Iterable[T]) -> Iterator[T]:
    """Return an iterator over those of the batches that this rank is to run; all of them on one process."""
    present = team()
    return dealt(batches, *((0, 1) if present is None else (present.rank, present.size)))


def summed(values: Tensor) -> Tensor:
    """Return the sum of what the ranks have found, on the CPU."""
    values = values.cpu()
    if team() is not None:
        distributed.all_reduce(values)
    return values


@contextmanager
def _on_its_own() -> Iterator[None]:
    """Do one task, which is not shared and whose probes measure this process."""
    token = _TEAM.set(None)
    try:
        with alone():
            yield
    finally:
        _TEAM.reset(token)


def _tell(present: Team, progress: Progress | None, label: str, done: int, total: int) -> None:
    if progress is not None and present.rank == 0:
        progress(label, done, total)
