"""Join what runs recorded of their layers: what `gradlab dynamics` runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradlab.errors import UsageError
from gradlab.results.dynamics.result import DynamicsResult
from gradlab.results.record import Stopwatch, make_record


def dynamics(runs: Sequence[str | Path] | str | Path) -> DynamicsResult:
    """What was recorded of every layer along the training of several runs.

    Args:
        runs: Folders of runs that recorded something, finished or not; or what a sink of `gl.watch` wrote: files
            `.csv`, `.jsonl` or `.parquet`, and folders of TensorBoard events.

    Raises:
        UsageError: For no run, or runs that cannot be told apart.
        GradlabError: When a folder holds no run, or one without dynamics.
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
