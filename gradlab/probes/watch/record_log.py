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

    def number(self, place: Place) -> int:
        """The number by which `append` knows a place."""
        return self._places.setdefault(place, len(self._places))

    def append(self, step: int, places: Sequence[int], values: Sequence[float]) -> None:
        """Add the values of a step, at places by their numbers."""
        content = np.empty(len(values), _ROW)
        content["step"], content["place"], content["value"] = step, places, values
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
