"""The same statistic of two runs, at the steps and layers that both have recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradlab.results.dynamics.tables import Array, Table

COLUMNS = ("step", "layer", "index", "block", "statistic", "first", "second")


@dataclass(frozen=True)
class Pair:
    """Values of one statistic of two runs, of layers or of the whole model.

    Attributes:
        statistic: Its name.
        steps: Those that both have recorded.
        layers: Those that both have, in the order of execution of the first.
        blocks: The block of each layer, empty if it is in none.
        indices: The place of each layer in the order of execution; 0 is the whole model.
        first: (steps, layers); NaN where it was not recorded, infinite where it is not finite.
        second: Likewise.
    """

    statistic: str
    steps: list[int]
    layers: list[str]
    blocks: list[str]
    indices: list[int]
    first: Array
    second: Array

    def frame(self) -> pd.DataFrame:
        """Its rows, with the columns of `COLUMNS`; without those that neither run has recorded."""
        count = len(self.layers)
        frame = pd.DataFrame(
            {
                "step": np.repeat(self.steps, count),
                **{
                    name: np.tile(values, len(self.steps))
                    for name, values in (("layer", self.layers), ("index", self.indices), ("block", self.blocks))
                },
                "statistic": self.statistic,
                "first": self.first.ravel(),
                "second": self.second.ravel(),
            }
        )
        return frame[~(frame["first"].isna() & frame["second"].isna())]


def pairs_of(first: pd.DataFrame, second: pd.DataFrame) -> list[Pair]:
    """All statistics that two runs have in common, at least at one step of one layer.

    Args:
        first: A dynamics frame of one network.
        second: Another.
    """
    # What was recorded and is not a number is infinite from here on: in a table, NaN is what was not recorded.
    known = [frame.assign(value=frame["value"].fillna(np.inf)) for frame in (first, second)]
    return list(_pairs(known[0], known[1]))


def pairs_in(frame: pd.DataFrame) -> list[Pair]:
    """The pairs whose rows a frame has.

    Args:
        frame: With the columns of `COLUMNS`.
    """
    return list(_pairs(frame.rename(columns={"first": "value"}), frame.rename(columns={"second": "value"})))


def _pairs(first: pd.DataFrame, second: pd.DataFrame) -> Iterator[Pair]:
    for whole in (False, True):
        # A table has no rows of index 0, as those of the whole model are.
        one, other = (
            frame[(frame["index"] == 0) == whole].assign(index=lambda rows: np.maximum(rows["index"], 1))
            for frame in (first, second)
        )
        for statistic in one["statistic"].unique():
            tables = Table.of(one, statistic), Table.of(other, statistic)
            if tables[0] and tables[1] and (pair := _pair(str(statistic), tables[0], tables[1], whole)):
                yield pair


def _pair(statistic: str, one: Table, other: Table, whole: bool) -> Pair | None:
    layers = [layer for layer in one.layers if layer in set(other.layers)]
    steps = sorted(set(one.steps) & set(other.steps))
    if not layers or not steps:
        return None
    values = [_at(table, steps, layers) for table in (one, other)]
    places = [one.layers.index(layer) for layer in layers]
    blocks = [one.blocks[place] for place in places]
    return Pair(statistic, steps, layers, blocks, [0 if whole else place + 1 for place in places], *values)


def _at(table: Table, steps: list[int], layers: list[str]) -> Array:
    lines = np.searchsorted(table.steps, steps)
    columns = [table.layers.index(layer) for layer in layers]
    found: Array = table.values[lines][:, columns]
    return found
