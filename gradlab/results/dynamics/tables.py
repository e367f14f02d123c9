"""One statistic of one run as a table, steps down and layers across, in the order of execution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from gradlab.results.dynamics.names import TOTAL

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Table:
    """Values of one statistic.

    Attributes:
        steps: Those that were recorded.
        layers: In the order of execution.
        values: (steps, layers); NaN where there is none.
        blocks: The block of each layer, empty if it is in none.
    """

    steps: list[int]
    layers: list[str]
    values: Array
    blocks: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, frame: pd.DataFrame, statistic: str) -> Table | None:
        """The table of a statistic, of layers alone; None where it was not recorded.

        Args:
            frame: Dynamics of one network.
            statistic: Its name.
        """
        rows = frame[(frame["statistic"] == statistic) & (frame["index"] > 0)]
        if rows.empty:
            return None
        # As fast for millions of rows as pandas' own pivot is for thousands; of a step recorded twice the last counts.
        places, layers = pd.factorize(rows["layer"])
        lines, steps = pd.factorize(rows["step"], sort=True)
        first = np.empty(len(layers), int)
        first[places[::-1]] = np.arange(len(rows))[::-1]
        first = first[np.argsort(rows["index"].to_numpy()[first], kind="stable")]
        ranks = np.empty(len(layers), int)
        ranks[places[first]] = np.arange(len(layers))
        values = np.full((len(steps), len(layers)), np.nan)
        values[lines, ranks[places]] = rows["value"].to_numpy(dtype=float)
        names = rows["layer"].iloc[first].astype(str).tolist()
        blocks = rows["block"].iloc[first].astype(str).tolist() if "block" in rows else [""] * len(names)
        return cls(np.asarray(steps, int).tolist(), names, values, blocks)

    @classmethod
    def of_total(cls, frame: pd.DataFrame, statistic: str) -> Table | None:
        """The table of a statistic of the whole model, with one column; None if it was not recorded.

        Args:
            frame: Dynamics of one network.
            statistic: Its name.
        """
        steps, values = total_series(frame, statistic)
        return cls(steps, [TOTAL], values[:, None], [""]) if steps else None

    def without_copies(self) -> Table:
        """The table without the values of columns that are equal to another one throughout, as those of tied weights.

        The places of the layers stay; values that are 0 are no sign of a copy.
        """
        _, kinds, counts = np.unique(np.nan_to_num(self.values), axis=1, return_inverse=True, return_counts=True)
        copies = (counts[kinds.reshape(-1)] > 1) & (self.values > 0).any(0)
        return replace(self, values=np.where(copies, np.nan, self.values))

    def at(self, step: int) -> Array:
        """The values of a step; of one that was not recorded NaN."""
        if step not in self.steps:
            return np.full(len(self.layers), np.nan)
        found: Array = self.values[self.steps.index(step)]
        return found


def records(frame: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray[Any, np.dtype[np.bool_]]]]:
    """Each network and each of its statistics of layers, with a mask of their rows, which a long frame is not cut by.

    Args:
        frame: A dynamics frame.
    """
    layers = frame["index"].to_numpy() > 0
    networks, names = pd.factorize(frame["network"])
    kinds, statistics = pd.factorize(frame["statistic"])
    for network, name in enumerate(names):
        own = layers & (networks == network)
        for kind, statistic in enumerate(statistics):
            mask = own & (kinds == kind)
            if mask.any():
                yield str(name), str(statistic), mask


def total_series(frame: pd.DataFrame, statistic: str) -> tuple[list[int], Array]:
    """The steps and values of a statistic of the whole model.

    Args:
        frame: Dynamics of one network.
        statistic: Its name.
    """
    rows = frame[(frame["statistic"] == statistic) & (frame["index"] == 0)].sort_values("step")
    return rows["step"].astype(int).tolist(), rows["value"].to_numpy(dtype=float)


def totals(frame: pd.DataFrame, statistic: str) -> dict[int, float]:
    """The values of a statistic of the whole model, by step; see `total_series`."""
    return dict(zip(*total_series(frame, statistic), strict=True))


def thinned(table: Table, columns: int) -> Table:
    """A table of fewer steps, in which every minimum and every maximum stays.

    The records are cut into intervals of equal number. Of each, a layer shows its smallest and its largest value, in
    the order in which they were recorded; what is not a number counts as larger than any.

    Args:
        table: A table of any length.
        columns: The largest number of steps that are left, even.

    Returns:
        The table, whose steps are those at which the intervals and their second halves begin.
    """
    count = len(table.steps)
    if count <= columns:
        return table
    starts = np.linspace(0, count, columns // 2 + 1).astype(int)
    values = np.empty((2 * len(starts) - 2, len(table.layers)))
    for place, (start, stop) in enumerate(pairwise(starts)):
        part = table.values[start:stop]
        known = np.where(np.isnan(part), np.inf, part)
        ends = np.sort([known.argmin(axis=0), known.argmax(axis=0)], axis=0)
        values[2 * place : 2 * place + 2] = np.take_along_axis(part, ends, axis=0)
    places = [place for start, stop in pairwise(starts) for place in (start, (start + stop) // 2)]
    return Table([table.steps[place] for place in places], table.layers, values, table.blocks)
