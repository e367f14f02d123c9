"""Compare two recorded runs, for `gradlab dynamics --compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradlab.errors import UsageError
from gradlab.results.compare_runs.pairs import COLUMNS, pairs_of
from gradlab.results.compare_runs.result import ComparisonResult
from gradlab.results.dynamics.result import DynamicsResult
from gradlab.results.joining import told_apart
from gradlab.results.record import Stopwatch, make_record


def compare_runs(
    first: DynamicsResult | str | Path, second: DynamicsResult | str | Path, *, statistics: Sequence[str] | None = None
) -> ComparisonResult:
    """Find the first step and layer at which two recorded runs part beyond noise.

    The runs are compared at the steps and layers that both have recorded: bit by bit, and beyond noise by the rule that
    the findings state, at a rate of false alarms of 1 % for two runs that differ by noise or by their seeds.

    Args:
        first: A result of `gl.watch` or `gl.dynamics` with one network; or the folder of a run, or a file or folder
            that a sink of `gl.watch` wrote.
        second: Likewise.
        statistics: Which to compare; None takes all that both have.

    Returns:
        The comparison, whose `first_difference` has the step and the layer; `same` is whether all bits are equal.

    Raises:
        UsageError: If a run is not one of these, or the two have no step, layer or statistic in common.
        GradlabError: If a file contains no records.
    """
    stopwatch = Stopwatch()
    runs = [_loaded(run) for run in (first, second)]
    frames = [run.frame if statistics is None else run.frame[run.frame["statistic"].isin(statistics)] for run in runs]
    frames, notes = _alike_in_precision(frames)
    pairs = pairs_of(*frames)
    if not pairs:
        raise UsageError(_nothing_in_common(frames, statistics))
    frame = pd.concat([pair.frame() for pair in pairs], ignore_index=True)[list(COLUMNS)]
    names = _names(runs, (first, second))
    networks = [{**run.facts(run.networks[0]), "network": name} for run, name in zip(runs, names, strict=True)]
    options: dict[str, Any] = {"runs": [str(run) for run in (first, second) if isinstance(run, str | Path)]}
    options["statistics"] = None if statistics is None else list(statistics)
    record = make_record("compare-runs", options=options, device="cpu", stopwatch=stopwatch, networks=networks)
    return ComparisonResult(frame, record, [*notes, *_left_out(frames, names, frame)])


def _loaded(run: DynamicsResult | str | Path) -> DynamicsResult:
    if isinstance(run, str | Path):
        run = DynamicsResult.load(run)
    if not isinstance(run, DynamicsResult):
        raise UsageError(f"a run is a result of gl.watch or gl.dynamics, or a path, not {type(run).__name__}")
    if len(run.networks) != 1:
        raise UsageError(f"two runs are compared, and one result has {len(run.networks)}: {', '.join(run.networks)}")
    return run


def _names(runs: Sequence[DynamicsResult], given: Sequence[object]) -> list[str]:
    """What to call two runs: by their networks, else by their files, else by numbers."""
    networks = [run.networks[0] for run in runs]
    if networks[0] == networks[1] and all(isinstance(run, str | Path) for run in given):
        networks = [Path(str(run)).resolve().stem for run in given]
    chosen = told_apart([[network] for network in networks], [{None}, {None}])
    return [names[network] for names, network in zip(chosen, networks, strict=True)]


def _alike_in_precision(frames: Sequence[pd.DataFrame]) -> tuple[list[pd.DataFrame], list[str]]:
    """Both rounded to float32 if one was, as by TensorBoard: other last bits would be those of the file."""
    rounded = [_is_single(frame["value"].to_numpy(float)) for frame in frames]
    if rounded[0] == rounded[1]:
        return list(frames), []
    single = [frame.assign(value=frame["value"].astype(np.float32).astype(float)) for frame in frames]
    return single, ["one of the runs was recorded in float32, and both are compared in that precision"]


def _is_single(values: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float32).astype(float), values, equal_nan=True))


def _nothing_in_common(frames: Sequence[pd.DataFrame], statistics: Sequence[str] | None) -> str:
    for what in ("statistic", "layer", "step"):
        known = [list(dict.fromkeys(frame[what])) for frame in frames]
        if not set(known[0]) & set(known[1]):
            some = " and ".join(", ".join(map(str, [*part[:3], "…"] if len(part) > 3 else part)) for part in known)
            asked = "" if statistics is None or what != "statistic" else f" among {', '.join(statistics)}"
            return f"the runs have no {what} in common{asked}: {some or 'nothing was recorded'}"
    return "the runs have no statistic of one layer at one step in common"


def _left_out(frames: Sequence[pd.DataFrame], names: Sequence[str], both: pd.DataFrame) -> list[str]:
    """What only one run has, in a note each."""
    notes = []
    for frame, name in zip(frames, names, strict=True):
        for what in ("statistic", "layer", "step"):
            own = list(dict.fromkeys(frame[what]))
            alone = [item for item in own if item not in set(both[what])]
            if alone:
                some = ", ".join(map(str, alone[:3])) + (", …" if len(alone) > 3 else "")
                notes.append(f"{name}: {len(alone)} of {len(own)} {what}s are not in the other run: {some}")
    return notes
