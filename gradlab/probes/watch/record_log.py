"""The records of a run, in a file of which nothing stays in memory."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Place:
    """What a value is of: columns of a row that are the same at every step."""

    layer: str
    index: int
    block: str
    statistic: str


_ROW = np.dtype([("step", "<i8"), ("place", "<i4"), ("value", "<f8")])


class RecordLog:
    """Values by step, appended to a temporary file that goes with this object: memory stays flat over any run."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the log
        weakref.finalize(self, self._file.close)
        self._places: dict[Place, int] = {}

    def append(self, step: int, rows: Sequence[tuple[Place, float]]) -> None:
        """Add the values of a step."""
        content = np.empty(len(rows), _ROW)
        content["step"] = step
        content["place"] = [self._places.setdefault(place, len(self._places)) for place, _ in rows]
        content["value"] = [value for _, value in rows]
        self._file.write(content.tobytes())

    def frame(self) -> pd.DataFrame:
        """All of them, with columns step, layer, index, block, statistic, value."""
        self._file.seek(0)
        content = np.frombuffer(self._file.read(), _ROW)
        names = [item.name for item in fields(Place)]
        places = pd.DataFrame([astuple(place) for place in self._places], columns=names)
        columns: dict[str, Any] = {name: places[name].to_numpy()[content["place"]] for name in names}
        return pd.DataFrame({"step": content["step"], **columns, "value": content["value"]})

    def __len__(self) -> int:
        """How many values there are."""
        return self._file.seek(0, 2) // _ROW.itemsize
