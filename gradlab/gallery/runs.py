"""The trainings that lie where the command runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gradlab.results import TrainingResult

RUNS = Path("runs")
"""Where trainings are looked for, in the folder where the command runs."""


def complete_runs(pattern: str) -> dict[str, dict[str, Any]]:
    """The record of every complete run, by the name of its folder, which is its network's.

    Args:
        pattern: A regular expression for the whole name.
    """
    folders = [folder for folder in sorted(RUNS.glob("*")) if re.fullmatch(pattern, folder.name)]
    records = {
        folder.name: TrainingResult.load(folder).record for folder in folders if (folder / "record.json").exists()
    }
    return {name: record for name, record in records.items() if record.get("complete")}
