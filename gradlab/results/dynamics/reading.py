"""Records of dynamics read back: from a run's table, from the files of sinks, and of what there was before."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from gradlab.errors import GradlabError
from gradlab.results.columns import check_columns
from gradlab.results.growing import read_growing

COLUMNS = ("step", "layer", "index", "block", "statistic", "value")
NEEDED = {"step": int, "layer": str, "statistic": str, "value": float | None}
"""The columns, with their types, of runs that began before there were the others."""

PREFIX = "gradlab/"
"""What begins the names of scalars in other people's dashboards: `gradlab/STATISTIC/LAYER`."""

TOTAL = "total"
"""The layer of what is recorded of the whole model."""


def read_records(path: str | Path) -> pd.DataFrame:
    """The rows of a file that a sink wrote, or of the TensorBoard events in a folder.

    Args:
        path: `.csv`, `.jsonl` or `.parquet`, also while it is being written; or a folder.

    Returns:
        Columns as in `COLUMNS`.

    Raises:
        GradlabError: When it holds no such rows.
    """
    path = Path(path)
    try:
        if path.is_dir():
            frame = _read_events(path)
        elif path.suffix == ".csv":
            frame = read_growing(path, [*NEEDED])
        elif path.suffix == ".jsonl":
            whole = path.read_bytes().rpartition(b"\n")[0]
            frame = pd.DataFrame([json.loads(line) for line in whole.splitlines()])
            if "value" in frame:
                # What JSON has no number for is a string there: nan, inf and -inf.
                frame["value"] = frame["value"].astype(float)
        elif path.suffix == ".parquet":
            frame = _read_parquet(path)
        else:
            raise GradlabError(f"{path}: dynamics are read from .csv, .jsonl, .parquet, or a folder of events")
    except (OSError, ValueError) as error:
        raise GradlabError(f"{path} is no table of dynamics: {error}") from None
    check_columns(frame, NEEDED, path)
    if frame.empty:
        raise GradlabError(f"nothing was recorded in {path}")
    return completed(frame)


def completed(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with all columns: where a layer has no place, the order in which layers stand in the table is taken.

    Args:
        frame: With the columns in `NEEDED`, and perhaps more.
    """
    frame = frame.astype({"layer": str, "statistic": str, "value": float})
    if "index" not in frame:
        order = frame.drop_duplicates(["statistic", "layer"])
        order = order.assign(place=order.groupby("statistic").cumcount() + 1)[["statistic", "layer", "place"]]
        frame["index"] = frame.merge(order, on=["statistic", "layer"], how="left")["place"].to_numpy()
        frame.loc[frame["layer"] == TOTAL, "index"] = 0
    frame["block"] = frame["block"].astype(object).fillna("").astype(str) if "block" in frame else ""
    return frame[[*COLUMNS]].reset_index(drop=True)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise GradlabError("reading parquet needs pyarrow: pip install 'gradlab-torch[parquet]'") from None


def _read_events(folder: Path) -> pd.DataFrame:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise GradlabError("tensorboard is not installed: pip install 'gradlab-torch[tensorboard]'") from None
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    rows = []
    for tag in events.Tags()["scalars"]:
        if tag.startswith(PREFIX):
            statistic, _, layer = tag.removeprefix(PREFIX).partition("/")
            rows += [
                {"step": event.step, "layer": layer, "statistic": statistic, "value": event.value}
                for event in events.Scalars(tag)
            ]
    return pd.DataFrame(rows, columns=list(NEEDED))
