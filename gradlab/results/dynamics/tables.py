"""One statistic of one run as a table, steps down and layers across, in the order of execution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Table:
    """Values of one statistic.

    Attributes:
        steps: Those that were recorded.
        layers: In the order of execution.
        values: (steps, layers); NaN where there is none.
    """

    steps: list[int]
    layers: list[str]
    values: Array

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
        order = rows.drop_duplicates("layer").sort_values("index")["layer"].tolist()
        wide = rows.pivot_table(index="step", columns="layer", values="value", aggfunc="last", dropna=False)
        wide = wide.reindex(columns=order)
        return cls([int(step) for step in wide.index], order, wide.to_numpy(dtype=float))

    def at(self, step: int) -> Array:
        """The values of a step; of one that was not recorded NaN."""
        if step not in self.steps:
            return np.full(len(self.layers), np.nan)
        found: Array = self.values[self.steps.index(step)]
        return found


def total_series(frame: pd.DataFrame, statistic: str) -> tuple[list[int], Array]:
    """The steps and values of a statistic of the whole model.

    Args:
        frame: Dynamics of one network.
        statistic: Its name.
    """
    rows = frame[(frame["statistic"] == statistic) & (frame["index"] == 0)].sort_values("step")
    return rows["step"].astype(int).tolist(), rows["value"].to_numpy(dtype=float)


def thinned(table: Table, columns: int) -> Table:
    """A table of fewer steps, in which no extreme value is lost.

    Of the steps that fall together, each layer shows the value farthest from its median over all, in logarithms
    unless some are negative; 0 and what is not finite are farther than any.

    Args:
        table: Of any length.
        columns: So many steps are left at most, evenly spaced over the records.
    """
    count = len(table.steps)
    if count <= columns:
        return table
    starts = np.unique(np.linspace(0, count, columns, endpoint=False).astype(int))
    with np.errstate(invalid="ignore", divide="ignore"):
        sizes = np.log(table.values) if not (table.values < 0).any() else table.values
        finite = np.where(np.isfinite(sizes), sizes, np.nan)
        middle = np.nanmedian(finite, axis=0) if np.isfinite(finite).any() else 0.0
        away = np.where(np.isfinite(sizes), np.abs(sizes - middle), np.inf)
    stops = [*starts[1:], count]
    chosen = [start + away[start:stop].argmax(axis=0) for start, stop in zip(starts, stops, strict=True)]
    values = np.stack([table.values[rows, np.arange(len(table.layers))] for rows in chosen])
    return Table([table.steps[start] for start in starts], table.layers, values)
