"""The processes of a distributed run over which the result of a probe is taken."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from gradlab.errors import GradlabError, UsageError
from gradlab.probes.execution_places import in_order
from gradlab.probes.meeting import meet, named
from gradlab.results.grouping import some

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TIMEOUT = 300.0
"""Seconds for which a result waits for the other ranks."""

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)

T = TypeVar("T")
S = TypeVar("S", bound=Hashable)

Membership = tuple[Sequence[int], int]
"""The global numbers of the ranks, in the order of their group, and the number of all processes."""

_SINGLE: Membership = (range(1), 1)


class Ranks:
    """The processes whose measurements make up one result.

    Args:
        process_group: The group; None for the default one, once torch.distributed is initialized.
        local: Whether to leave the other processes out.
        timeout: Seconds to wait for the other processes.

    Raises:
        UsageError: If this process is not in the group, or the group was ended.
    """

    def __init__(
        self, process_group: ProcessGroup | None = None, local: bool = False, timeout: float = TIMEOUT
    ) -> None:
        self.process_group, self.local, self.timeout = process_group, local, timeout
        self._last = self._present() or _SINGLE
        self._before: Membership | None = None
        if process_group is not None and self._present() is None:
            raise UsageError("the process group of this probe was ended by destroy_process_group: give one that is not")

    def remember(self) -> None:
        """Take down which ranks there are, since torch.distributed may be ended or begun anew before the result."""
        present = self._present()
        if present is not None and present != self._last:
            # A process that was alone until now is one of those that all began to measure before they met.
            self._before = self._before if self._last == _SINGLE else self._last
            self._last = present

    def _present(self) -> Membership | None:
        """Return the ranks as they are now; None without torch.distributed, or if the group was ended."""
        if not _is_distributed():
            return None
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if self.local:
            return range(rank, rank + 1), world
        if self.process_group is None:
            return range(world), world
        if not isinstance(self.process_group, torch.distributed.ProcessGroup):
            raise UsageError(f"rank {rank} is not in the process group of this probe: make the probe on its ranks only")
        try:
            return tuple(torch.distributed.get_process_group_ranks(self.process_group)), world
        except KeyError:
            return None

    def _known(self) -> Membership:
        """Return the same, as it last was if torch.distributed or the group has been ended."""
        self.remember()
        return self._last

    @property
    def numbers(self) -> list[int]:
        """The global numbers of the ranks, in the order of the group; only this one's, if there is no other."""
        return [*self._known()[0]]

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes what all of them have found."""
        return self.local or not _is_distributed() or torch.distributed.get_rank() == self.numbers[0]

    def gather(self, own: T, what: str) -> list[T]:
        """Return what every rank gives, in the order of the ranks and the same on all of them.

        Args:
            own: What this rank gives: plain values, and tensors on the CPU.
            what: The call that all ranks have to make, for messages.

        Raises:
            GradlabError: If a rank does not make the same call within the timeout, the message naming the ranks, or if
                they are no longer those that have measured.
        """
        ranks = self.numbers
        self._refuse_others(what)
        if len(ranks) == 1:
            return [own]
        place = "all" if self.process_group is None else self.process_group.group_name
        remedy = "call it on every rank, wait longer with timeout=, or take one rank's own numbers with local=True"
        meet(what, ranks, place, self.timeout, remedy)
        found: list[Any] = [None] * len(ranks)
        torch.distributed.all_gather_object(found, own, group=self.process_group)
        return found

    def _refuse_others(self, what: str) -> None:
        """Raise an error if the ranks that have measured cannot be asked any more."""
        numbers, _ = self._last
        if len(numbers) > 1 and self._present() is None:
            ended = "the process group of this probe" if _is_distributed() else "torch.distributed"
            raise GradlabError(
                f"{what}: {ended} was ended, and this process alone is not all of {named(numbers)}: make the call "
                "before destroy_process_group(), or take one rank's own numbers with local=True"
            )
        if self._before is not None and not self.local:
            raise GradlabError(
                f"{what}: torch.distributed was begun anew with other ranks since the probe measured "
                f"({named(self._before[0])} before, {named(numbers)} now): make the call before it is ended, or take "
                "one rank's own numbers with local=True"
            )

    def notes(self) -> list[str]:
        """Return the sentence that says whose examples a result is of, or none in a run of a single process."""
        ranks, world = self._known()
        if world == 1:
            return []
        if self.local:
            return [f"{named(ranks)} of {world}: measured on the examples of this process alone, as local=True asks"]
        return [f"measured on the examples of {f'all {world} ranks' if len(ranks) == world else named(ranks)}"]

    def unmerged_notes(self) -> list[str]:
        """Return the sentence on gradients that are not merged over the ranks, or none in a run of a single process."""
        if self._known()[1] == 1:
            return []
        return [
            "gradients are those that the parameters of this process hold: those of all ranks if "
            "DistributedDataParallel, or another exchange, has averaged them"
        ]


def joint_order(by_rank: Sequence[Sequence[S]]) -> list[S]:
    """Return the order of execution that the ranks' own orders tell together; stages follow one another by rank."""
    order: list[S] = []
    for seen in by_rank:
        order = [*order, *seen] if set(order).isdisjoint(seen) else in_order(order, seen)
    return order


def check_same_steps(by_rank: Sequence[Sequence[int]]) -> None:
    """Raise an error if the ranks have measured different steps.

    Args:
        by_rank: The numbers of the measured steps of each rank.
    """
    if len(set(map(tuple, by_rank))) > 1:
        counts = ", ".join(str(len(steps)) for steps in by_rank[:8]) + (", …" if len(by_rank) > 8 else "")
        raise GradlabError(
            f"the ranks have measured different steps ({counts} steps, in the order of the ranks): call step() as "
            "often on every rank with the same every=, or measure one rank alone with local=True"
        )


def are_stages(by_rank: Sequence[Collection[S]]) -> bool:
    """Return whether some ranks have run no layer that any of the others has run, as stages of a pipeline do."""
    rest = [set(sites) for sites in by_rank if sites]
    stage = rest.pop() if rest else set()
    # Several ranks may run the same stage, each with examples of its own.
    while shared := [sites for sites in rest if not stage.isdisjoint(sites)]:
        stage = stage.union(*shared)
        rest = [sites for sites in rest if sites not in shared]
    return bool(rest)


def refuse_stages(by_rank: Sequence[Collection[S]]) -> None:
    """Raise an error if ranks are stages of a pipeline, where the loss is one and no mean of the ranks' losses.

    Args:
        by_rank: What each rank has gradients of.
    """
    if are_stages(by_rank):
        raise GradlabError(
            "the ranks have run different layers, as stages of a pipeline do, so that their gradients are not those of "
            "a mean of their losses: measure each rank's with local=True"
        )


def uneven_notes(ran: Sequence[Mapping[S, str]], ranks: Ranks) -> list[str]:
    """Write the sentence on what ran on some of the ranks only.

    Args:
        ran: The name of each site that ran, for every rank.
        ranks: The ranks.
    """
    everywhere = set(ran[0]).intersection(*ran[1:])
    names = list(dict.fromkeys(name for rank in ran for site, name in rank.items() if site not in everywhere))
    if not names:
        return []
    without = [number for number, rank in zip(ranks.numbers, ran, strict=True) if len(rank) < len(set().union(*ran))]
    return [f"{some(names)}: did not run on {named(without)} as on others, and measured where it ran"]


@contextmanager
def alone() -> Iterator[None]:
    """Let probes measure this process as if there were no others, since it has a task of its own."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _is_distributed() -> bool:
    return not _ALONE.get() and torch.distributed.is_available() and torch.distributed.is_initialized()
