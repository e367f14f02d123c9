"""Records of dynamics read back: from a run's table, from the files of sinks, and of what there was before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from gradlab.errors import GradlabError, UsageError, reason_of
from gradlab.results.columns import check_columns
from gradlab.results.dynamics.names import TOTAL
from gradlab.results.growing import read_growing

COLUMNS = ("step", "layer", "index", "block", "statistic", "value")
NEEDED = {"step": int, "layer": str, "statistic": str, "value": float | None}
"""The columns, with their types, of runs that began before there were the others."""

PREFIX = "gradlab/"
"""What begins the names of scalars in other people's dashboards: `gradlab/STATISTIC/LAYER`."""

_TEXTS = ("layer", "statistic", "block")


def read_records(path: str | Path) -> pd.DataFrame:
    """The rows of a file that a sink wrote, or of the TensorBoard events in a folder.

    Args:
        path: `.csv`, `.jsonl` or `.parquet`, also while it is being written; or a folder.

    Returns:
        Columns as in `COLUMNS`; of a step recorded twice, the last value of each layer's statistic.

    Raises:
        UsageError: If it is a file of another kind.
        GradlabError: When it holds no such rows.
    """
    path = Path(path)
    if not path.is_dir() and path.suffix not in (".csv", ".jsonl", ".parquet"):
        raise UsageError(f"{path}: dynamics are read from .csv, .jsonl, .parquet, or a folder of events")
    try:
        if path.is_dir():
            frame = _read_events(path)
        elif path.suffix == ".csv":
            frame = read_growing(path, [*NEEDED], few_texts=_TEXTS)
        elif path.suffix == ".jsonl":
            frame = pd.DataFrame(_rows(path.read_bytes().rpartition(b"\n")[0]))
            if "value" in frame:
                # What JSON has no number for is a string there: nan, inf and -inf.
                frame["value"] = frame["value"].astype(float)
        else:
            frame = _read_parquet(path)
    except (OSError, ValueError) as error:
        raise GradlabError(f"{path} is no table of dynamics: {reason_of(error)}") from None
    check_columns(frame, NEEDED, path)
    if frame.empty:
        raise GradlabError(f"nothing was recorded in {path}")
    if frame["step"].min() < 0:
        raise GradlabError(f"{path} is damaged: step {frame['step'].min():,} is before the first, 0; measure again")
    # Records of a training that went on from an earlier step than the last one recorded.
    again = frame.duplicated(["step", "layer", "statistic"], keep="last")
    return completed(frame[~again] if again.any() else frame)


def completed(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with all columns: where a layer has no place, the order in which layers stand in the table is taken.

    Args:
        frame: With the columns in `NEEDED`, and perhaps more.
    """
    frame = frame.assign(value=frame["value"].astype(float), **{name: texts(frame[name]) for name in _TEXTS[:2]})
    if "index" not in frame:
        order = frame.drop_duplicates(["statistic", "layer"])
        places = order.groupby("statistic", observed=True).cumcount() + 1
        known = dict(zip(zip(order["statistic"], order["layer"], strict=True), places, strict=True))
        frame["index"] = [known[key] for key in zip(frame["statistic"], frame["layer"], strict=True)]
        frame.loc[frame["layer"] == TOTAL, "index"] = 0
    frame["block"] = texts(frame["block"] if "block" in frame else pd.Series("", frame.index))
    return frame[[*COLUMNS]].reset_index(drop=True)


def texts(column: pd.Series) -> pd.Series:
    """A column of few different texts, each of which is stored once; missing ones are empty.

    Args:
        column: Texts, or what stands for them.
    """
    column = column.astype("category")
    if column.isna().any():
        column = column.cat.add_categories([""] if "" not in column.cat.categories else []).fillna("")
    return column.cat.rename_categories(column.cat.categories.astype(str))


def _rows(lines: bytes) -> list[dict[str, Any]]:
    """The objects of lines of JSON.

    Raises:
        ValueError: If a line is something else, or a value is an object or a list.
    """
    rows = [json.loads(line) for line in lines.splitlines()]
    if all(isinstance(row, dict) and not any(isinstance(value, dict | list) for value in row.values()) for row in rows):
        return rows
    raise ValueError("its lines are not all objects of single values")


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
