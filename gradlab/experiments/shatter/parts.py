"""Nets of several families measured one by one by several processes, each kept in a file until the result is made."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

from gradlab.experiments.request import Progress
from gradlab.experiments.shatter.run import FamilyRun, Settings, joined_run, run_seeds
from gradlab.experiments.spreading import ranks, spread
from gradlab.models import Family
from gradlab.results.files import write_atomically
from gradlab.stats import Activation

Job = tuple[Family, Sequence[int]]
"""A family with its norm resolved, and the depths at which it is measured."""


def shared_runs(
    jobs: Sequence[Job], settings: Settings, keep: Path | None, progress: Progress | None
) -> list[FamilyRun]:
    """Measure families seed by seed, spread over the ranks, and read what was measured before.

    On a CPU the numbers of a net do not depend on other nets, so that they are those of `run_family` to the bit.

    Args:
        jobs: What is measured.
        settings: The settings common to all families.
        keep: The folder of the nets that are done, each in a file of its own; None keeps none.
        progress: A function called with the number of nets that all ranks have done.

    Raises:
        GradlabError: If a gradient is not finite.
    """
    together = 1 if settings.device.type == "cpu" else -(-len(settings.seeds) // ranks())
    groups = [settings.seeds[start : start + together] for start in range(0, len(settings.seeds), together)]
    tasks = [(job, group) for job in range(len(jobs)) for group in groups]

    def measure(task: tuple[int, Sequence[int]]) -> FamilyRun:
        (family, depths), seeds = jobs[task[0]], task[1]
        path = None if keep is None else keep / f"{_digest(family, depths, settings, seeds)}.pt"
        if path is not None and (known := _read(path, family)) is not None:
            return known
        run = run_seeds(family, depths, settings, seeds)
        if path is not None:
            _write(path, run)
        return run

    parts = spread(tasks, measure, cost=lambda task: max(jobs[task[0]][1]), progress=progress, label="nets")
    count = len(groups)
    return [
        joined_run(family, depths, parts[place * count : (place + 1) * count], settings)
        for place, (family, depths) in enumerate(jobs)
    ]


def forget(keep: Path) -> None:
    """Remove the folder of the nets that are done, once their result is saved."""
    shutil.rmtree(keep, ignore_errors=True)


def _digest(family: Family, depths: Sequence[int], settings: Settings, seeds: Sequence[int]) -> str:
    """Name what determines the numbers of some nets."""
    x = hashlib.sha256(settings.x.numpy().tobytes()).hexdigest()
    known = [asdict(family), list(depths), x, list(seeds), settings.width, settings.norm_grad, settings.init]
    known += [str(settings.dtype), settings.device.type, torch.__version__]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]


def _write(path: Path, run: FamilyRun) -> None:
    content = {each.name: getattr(run, each.name) for each in fields(run) if each.name != "family"}
    content |= {"layers": tuple(run.layers), "ends": {depth: tuple(found) for depth, found in run.ends.items()}}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def _read(path: Path, family: Family) -> FamilyRun | None:
    """Return what a file holds; None if there is none, or it is damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        run = FamilyRun(family, **content)
        ends = {depth: Activation(*found) for depth, found in run.ends.items()}
        return replace(run, layers=Activation(*run.layers), ends=ends)
    except Exception:  # torch raises anything for a file that is not what it should be
        return None
