"""Commands in several processes, as torchrun and Slurm start them: all of them measure, and the first one speaks."""

import functools
import os
from collections.abc import Callable
from typing import Any


def processes() -> int:
    """The number of processes that run this command."""
    world = os.environ.get("WORLD_SIZE", "1")
    return int(world) if world.isdecimal() and int(world) else 1


def is_first() -> bool:
    """Whether this process prints, shows progress and writes: one on its own, or rank 0 of several."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


def where_it_runs() -> str:
    """The beginning of an error: which of several processes has failed, or nothing."""
    return f"rank {os.environ.get('RANK', '?')} of {processes()}: " if processes() > 1 else ""


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """The command, whose measurement several processes share."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        if processes() == 1:
            command(**values)
            return
        from gradlab.experiments.spreading import together

        with together():
            command(**values)

    return run


def by_first(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which the first of several processes runs alone, as there is nothing to share."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        if is_first():
            command(**values)

    return run
