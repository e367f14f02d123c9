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
