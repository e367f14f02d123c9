"""Saved results with one thing changed: a column, a cell, or a fact of the record, with digests that fit."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from every_kind import EVERY_KIND, make_run
from hypothesis import strategies as st

import gradlab as gl
from gradlab.results.kinds import kind as kind_of

RUN = "run"
"""The folder of a training, beside the kinds of results."""

UNREAD = {"sha256", "findings"}
"""What is not read back from a record."""

DROPPED = object()
WRONG = (DROPPED, None, "abc", 7, -1.5, [], {}, ["x"], {"a": 1})

Files = dict[str, bytes]


@dataclass(frozen=True)
class Changed:
    """The files of a result with a change.

    Attributes:
        kind: The kind of the result, or `run`.
        files: The contents by name.
        drawn: Whether the figures are drawn, too; those of tables whose rows do not belong together need not be.
    """

    kind: str
    files: Files
    drawn: bool


@cache
def saved() -> dict[str, Files]:
    """The files of one small result of every kind, and those of a run."""
    files = {}
    with tempfile.TemporaryDirectory() as place:
        runs = make_run(Path(place))
        files[RUN] = _read(runs / "resnet8", ("record.json", "metrics.csv", "dynamics.csv"))
        for kind, make in EVERY_KIND.items():
            paths = make(runs).save(Path(place) / kind, formats=())
            files[kind] = _read(Path(place) / kind, [path.name for path in paths])
    return files


def _read(folder: Path, names: Any) -> Files:
    return {name: (folder / name).read_bytes() for name in names}


@st.composite
def changed_results(draw: st.DrawFn) -> Changed:
    """A result of any kind with one change."""
    kind = draw(st.sampled_from(sorted(saved())))
    files = dict(saved()[kind])
    tables = sorted(name for name, content in files.items() if name.endswith(".csv") and content.count(b"\n") > 1)
    in_table = draw(st.booleans())
    if in_table:
        name = draw(st.sampled_from(tables))
        files[name] = draw(_changed_table(files[name]))
    else:
        (name,) = (name for name in files if name.endswith(".json"))
        record = json.loads(files[name])
        place = draw(st.sampled_from(sorted(_places(record), key=repr)))
        files[name] = json.dumps(_put(record, place, draw(st.sampled_from(WRONG)))).encode()
    return Changed(kind, _with_digests(files), not in_table and draw(st.integers(0, 9)) == 0)


@st.composite
def _changed_table(draw: st.DrawFn, content: bytes) -> bytes:
    frame = pd.read_csv(io.BytesIO(content), keep_default_na=False, dtype=str)
    column = draw(st.sampled_from(list(frame.columns)))
    change = draw(st.sampled_from(("drop", "cell", "column", "rows")))
    if change == "drop":
        frame = frame.drop(columns=column)
    elif change == "rows":
        frame = frame.iloc[: draw(st.integers(0, min(2, len(frame))))]
    else:
        rows = slice(None) if change == "column" else draw(st.integers(0, len(frame) - 1))
        frame.loc[rows, column] = draw(st.sampled_from(("", "abc", "-1.5", "7", "inf", "True", "1e400")))
    return frame.to_csv(index=False).encode()


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a record, five levels deep."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, part in inner:
        if not place and key in UNREAD:
            continue
        yield (*place, key)
        if len(place) < 4:
            yield from _places(part, (*place, key))


def _put(record: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of a record with another value at a place."""
    changed = copy.deepcopy(record)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if value is DROPPED:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


def _with_digests(files: Files) -> Files:
    """The files, with a record that has their digests."""
    for name in [name for name in files if name.endswith(".json")]:
        record = json.loads(files[name])
        if isinstance(record, dict) and isinstance(record.get("sha256"), dict):
            tables = {table for table in record["sha256"] if table in files}
            record["sha256"] |= {table: hashlib.sha256(files[table]).hexdigest() for table in tables}
            files = {**files, name: json.dumps(record).encode()}
    return files


def show(changed: Changed) -> None:
    """Load a result and print it, and draw its figures if they are asked for."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in changed.files.items():
            (Path(folder) / name).write_bytes(content)
        kinds = (gl.TrainingResult, gl.DynamicsResult) if changed.kind == RUN else (kind_of(changed.kind),)
        for kind in kinds:
            result = kind.load(folder)
            repr(result)
            if changed.drawn:
                result.svg()
