"""Join the records of the layers of several runs, for `gradlab dynamics`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradlab.errors import UsageError
from gradlab.results.dynamics.result import DynamicsResult
from gradlab.results.record import Stopwatch, make_record


def dynamics(runs: Sequence[str | Path] | str | Path) -> DynamicsResult:
    """Read the statistics recorded of every layer during the training of several runs.

    Args:
        runs: The folders of runs with recorded statistics, finished or not; or the output of a sink of `gl.watch`:
            files `.csv`, `.jsonl` or `.parquet`, and folders of TensorBoard events.

    Raises:
        UsageError: If there is no run, or runs have the same name.
        GradlabError: If a folder contains no run, or a run without recorded statistics.
    """
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    if not folders:
        raise UsageError("name at least one run")
    stopwatch = Stopwatch()
    result = DynamicsResult.of_runs(folders)
    options = {"runs": [str(folder) for folder in folders]}
    device = "; ".join(dict.fromkeys(facts.get("device", "not recorded") for facts in result.record["networks"]))
    result.record = make_record("dynamics", options=options, device=device, stopwatch=stopwatch, **result.record)
    return result
