"""The trainings that lie where the command runs."""

from __future__ import annotations

import re
from pathlib import Path

from gradlab.results import TrainingResult

RUNS = Path("runs")
"""Where trainings are looked for, in the folder where the command runs."""


def complete_runs(pattern: str) -> dict[str, TrainingResult]:
    """Every complete run, by the name of its folder, which is its network's.

    Args:
        pattern: A regular expression for the whole name.
    """
    folders = [folder for folder in sorted(RUNS.glob("*")) if re.fullmatch(pattern, folder.name)]
    runs = {folder.name: TrainingResult.load(folder) for folder in folders if (folder / "record.json").exists()}
    return {name: run for name, run in runs.items() if run.record.get("complete")}
