"""The trainings that lie where the command runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlab.results.label import description
from gradlab.results.training.result import TrainingResult

KINDS = ("plain", "residual")

RUNS = Path("runs")
"""Where trainings are looked for, in the folder where the command runs."""


def complete_runs() -> dict[str, TrainingResult]:
    """Every complete run of a plain or residual network, by the name of its folder, which is that of its network."""
    runs = {path.parent.name: TrainingResult.load(path.parent) for path in sorted(RUNS.glob("*/record.json"))}
    return {name: run for name, run in runs.items() if run.record.get("complete") and known(run).get("kind") in KINDS}


def known(run: TrainingResult) -> Mapping[str, Any]:
    """What is known of the network of a run: its family, depth and kind."""
    return description(run.facts(run.networks[0]))
