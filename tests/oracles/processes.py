"""Checks that several processes of a distributed run make together, and what each of them has found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from forked_command import run_modules
from torch import Tensor, nn

import gradlab as gl

Batch = tuple[Tensor, Tensor]
Found = list[dict[str, Any]]


def found_by(module: str, world: int, folder: Path, *checks: str) -> Found:
    """Return what each of some processes has found.

    Args:
        module: The name of the module in this package that calls `main`.
        world: The number of processes.
        folder: Where they meet, and leave what they have found.
        *checks: The names of checks; without any, all of the module.
    """
    arguments = [[str(rank), str(world), str(folder), *checks] for rank in range(world)]
    run_modules(f"oracles.{module}", arguments, [{}] * world)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


class RankChecks:
    """What each of several ranks checks together with the others: every public method gives what it has found.

    Args:
        rank: The number of the rank.
        world: The number of ranks.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world


def column(found: Any, name: str, key: str = "layer") -> dict[str, Any]:
    """Return the values of a column by layer, of the last step where there are several."""
    return {row[key]: row[name] for row in found["rows"]}


def measured(probe: Any, model: nn.Module, data: list[Batch], reduction: str = "mean") -> Any:
    """Return the probe after a step on each batch, without changing the model."""
    with probe:
        for x, y in data:
            F.cross_entropy(model(x), y, reduction=reduction).backward()
            getattr(probe, "step", int)()
            model.zero_grad()
    return probe


def run(probe: Any, model: nn.Module, data: list[Batch], **options: bool) -> Any:
    """Return the probe after a forward pass of each batch."""
    with probe, torch.no_grad():
        for x, _ in data:
            model(x, **options)
    return probe


def watched(model: nn.Module, data: list[Batch], **options: Any) -> Any:
    """Return what a watch records of a training with a step on each batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1, **options) as watch:
        for x, y in data:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return watch.result()


def found(check: Callable[[], Any]) -> Any:
    """Return what a check gives, as plain values."""
    try:
        result = check()
    except gl.GradlabError as error:
        return {"error": str(error)}
    if result is None:
        return {}
    frame = result.frame if hasattr(result, "frame") else result
    return {
        "rows": frame.astype(object).where(frame.notna(), None).to_dict("records"),
        "notes": getattr(result, "notes", []),
    }


def names(checks: type) -> list[str]:
    """Return the names of the checks, in their order."""
    return [name for name in vars(checks) if not name.startswith("_")]


def main(checks: type[RankChecks]) -> None:
    """Make some or all checks as one of several ranks, and write what it has found.

    The arguments of the command are the rank, the number of ranks, a folder, and names of checks.

    Args:
        checks: A class whose methods are the checks; all ranks make all of them in the same order.
    """
    rank, world, folder, chosen = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    present = checks(rank, world)
    everything = {name: found(getattr(present, name)) for name in chosen or names(type(present))}
    (folder / f"{rank}.json").write_text(json.dumps(everything, default=float))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
