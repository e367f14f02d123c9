"""The trainings in the current folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlab.results.label import description
from gradlab.results.training.result import TrainingResult

KINDS = ("plain", "residual")

RUNS = Path("runs")
"""The folder of trainings, relative to the current folder."""


def complete_runs(folder: Path = RUNS) -> dict[str, TrainingResult]:
    """All complete runs of plain and residual networks, by the names of their folders, which name the networks.

    Args:
        folder: The folder that holds those of the runs.
    """
    runs = {path.parent.name: TrainingResult.load(path.parent) for path in sorted(folder.glob("*/record.json"))}
    return {name: run for name, run in runs.items() if run.record.get("complete") and known(run).get("kind") in KINDS}


def known(run: TrainingResult) -> Mapping[str, Any]:
    """The facts on the network of a run: its family, depth and kind."""
    return description(run.facts(run.networks[0]))
