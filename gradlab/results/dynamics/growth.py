"""Growth with depth: by what factor a layer, and in which records."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradlab.results.dynamics.tables import Array, Table
from gradlab.stats.verdict import FALSE_ALARMS, trend

FACTOR = 1e3
"""The least factor between the ends of a fitted line for values to be said to vanish, explode or grow."""


@dataclass(frozen=True)
class Line:
    """A straight line through logarithms over the place of layers.

    Attributes:
        rate: Factor from one layer to the next.
        span: Factor between the ends of the line.
        first: Place of the first layer that it was fitted to.
        last: That of the last.
    """

    rate: float
    span: float
    first: int
    last: int


def growth(values: Array, rate: float = FALSE_ALARMS) -> Line | None:
    """The factor a layer by which values grow or shrink with depth.

    Least squares through the logarithms of all that are finite and above 0. There is such a factor where Student's t
    tells the slope from 0, and the line spans a factor of at least `FACTOR`.

    Args:
        values: In the order of execution.
        rate: Share of false alarms of the first condition.
    """
    places = np.flatnonzero(np.isfinite(values) & (values > 0))
    if len(places) < 3:
        return None
    logs = np.log10(values[places])
    found = trend(places, logs)
    slope = found.difference
    if math.isnan(found.p):
        # All lie on one line exactly.
        slope = float(np.polyfit(places, logs, 1)[0])
    elif not found.verdict(rate).speaks:
        return None
    length = int(places[-1] - places[0])
    if abs(slope) * length < math.log10(FACTOR):
        return None
    return Line(10.0**slope, 10.0 ** (slope * length), int(places[0]), int(places[-1]))


@dataclass(frozen=True)
class Stretch:
    """Records one after another in which values grow with depth, or shrink.

    Attributes:
        line: The line of the last of them.
        first: The place of the first of them in the table.
        last: The place of the last.
        lasts: Whether no later record shows otherwise.
    """

    line: Line
    first: int
    last: int
    lasts: bool


def last_growth(table: Table, rate: float = FALSE_ALARMS) -> Stretch | None:
    """Find the latest records in which the values of layers grow or shrink with depth.

    A record that tells nothing, since fewer than three of its values are above 0 and finite, neither begins nor ends
    a stretch: what grew before a NaN is not forgotten because of it.

    Args:
        table: The values of layers by step.
        rate: The probability of a false alarm over all records together.
    """
    telling = np.flatnonzero((np.isfinite(table.values) & (table.values > 0)).sum(1) >= 3)
    found: Stretch | None = None
    for place in reversed(telling):
        line = growth(table.values[place], rate / len(telling)) if _may_grow(table.values[place]) else None
        if found is None and line is not None:
            found = Stretch(line, int(place), int(place), bool(place == telling[-1]))
        elif found is not None and line is not None and (line.rate > 1) == (found.line.rate > 1):
            found = Stretch(found.line, int(place), found.last, found.lasts)
        elif found is not None:
            break
    return found


def _may_grow(values: Array) -> bool:
    """Whether values are so far apart that a line through them can span `FACTOR`; most records are not worth a fit."""
    there = values[np.isfinite(values) & (values > 0)]
    return bool(there.max() >= math.sqrt(FACTOR) * there.min())
