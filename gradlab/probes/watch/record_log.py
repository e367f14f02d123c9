"""The records of a run in a temporary file, so that none stays in memory."""

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
    """The columns of a row that are the same at every step."""

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
        """Return the number that `append` knows a place by."""
        return self._places.setdefault(place, len(self._places))

    def append(self, step: int, places: Sequence[int], values: Sequence[float]) -> None:
        """Add the values of a step, at places by their numbers."""
        content = np.empty(len(values), _ROW)
        content["step"], content["place"], content["value"] = step, places, values
        self._file.write(content.tobytes())

    def frame(self) -> pd.DataFrame:
        """Return all values, with the columns step, layer, index, block, statistic and value."""
        self._file.seek(0)
        content = np.frombuffer(self._file.read(), _ROW)
        names = [item.name for item in fields(Place)]
        places = pd.DataFrame([astuple(place) for place in self._places], columns=names)
        numbers = content["place"]
        columns: dict[str, Any] = {"index": places["index"].to_numpy()[numbers]}
        for name in ("layer", "block", "statistic"):
            # Texts are stored once: there are as many rows as values, and few texts.
            codes, texts = pd.factorize(places[name], sort=True)
            columns[name] = pd.Categorical.from_codes(codes.astype(np.int16)[numbers], texts)
        frame = pd.DataFrame({"step": content["step"], **columns, "value": content["value"]})
        return frame[["step", *names, "value"]]

    def __len__(self) -> int:
        """Return the number of values."""
        return self._file.seek(0, 2) // _ROW.itemsize
