"""The rules by which layers and steps stand out: numbers in, numbers out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradlab.results.dynamics.tables import Array
from gradlab.stats.verdict import FALSE_ALARMS, critical, trend

FACTOR = 1e3
"""Between the ends of a fitted line, from which on something vanishes, explodes or grows."""

SHARE = 0.5
"""Of units that are dead, or of values that are saturated, from which on a layer is called so."""

APART = 30.0
"""Factor between a layer and the median of all, from which on its update is out of line."""

JUMP = 30.0
"""Factor between the responses of two layers, from which on it is out of line with those of other layers."""

SPIKE = 5.0
"""Factor between a gradient norm and the median of the records before it, from which on it is a spike."""

LEAST_RECORDS = 8
"""Records before a step that it is held against, at least."""

WINDOW = 32
"""Records before a step that it is held against, at most."""

_EFFICIENCY = 0.37
_LEAST_SPREAD = 0.01
"""Of decimal logarithms: less is no spread that a deviation is measured by."""


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


def out_of_line(values: Array, factor: float, rate: float = FALSE_ALARMS) -> list[int]:
    """The places of values that lie far from the median of all.

    Those whose logarithm deviates by more than a factor of `factor`, and by more standard deviations, as the median
    absolute deviation gives them, than any of so many normal ones does in all but `rate` of cases.

    Args:
        values: Those above 0 and finite are compared; of fewer than five none is out of line.
        factor: The least.
        rate: Share of false alarms.
    """
    there = np.isfinite(values) & (values > 0)
    if there.sum() < 5:
        return []
    logs = np.log10(np.where(there, values, 1.0))
    middle, spread = _centre(logs[there])
    count = int(there.sum())
    bound = max(math.log10(factor), _critical(count, rate / count) * spread)
    return [int(place) for place in np.flatnonzero(there & (np.abs(logs - middle) > bound))]


def exceeds(values: Array, place: int, factor: float, rate: float = FALSE_ALARMS) -> bool:
    """Whether a value of a series lies far above those before it.

    It is held against the `WINDOW` values before it, of which there have to be `LEAST_RECORDS`, as in `out_of_line`;
    the rate is that of a series of so many.

    Args:
        values: In time.
        place: Of the value.
        factor: The least between it and the median of those.
        rate: Share of series with a false alarm.
    """
    before = values[max(0, place - WINDOW) : place]
    before = before[np.isfinite(before) & (before > 0)]
    if len(before) < LEAST_RECORDS or not values[place] > 0:
        return False
    middle, spread = _centre(np.log10(before))
    bound = max(math.log10(factor), _critical(len(before), rate / len(values)) * spread)
    return bool(np.log10(values[place]) - middle > bound)


def spikes(values: Array, factor: float = SPIKE, rate: float = FALSE_ALARMS) -> list[int]:
    """The places at which a series begins to lie far above what was before; see `exceeds`."""
    found = [place for place in range(len(values)) if exceeds(values, place, factor, rate)]
    return [place for place in found if place - 1 not in found]


def since(held: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    """From which place on a condition has held to the end.

    Args:
        held: Whether it does, by place; at the last one it does.
    """
    broken = np.flatnonzero(~held)
    return int(broken[-1]) + 1 if len(broken) else 0


def _centre(logs: Array) -> tuple[float, float]:
    """Median and standard deviation, the one as the median absolute deviation gives it."""
    middle = float(np.median(logs))
    return middle, max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(logs - middle))))


def _critical(count: int, rate: float) -> float:
    """How many standard deviations are beyond chance, where these are known by a median absolute deviation.

    That has 37 % of the efficiency of the usual estimate (Rousseeuw and Croux 1993): Student's t, with as many degrees
    of freedom fewer.
    """
    return critical(max(1.0, _EFFICIENCY * (count - 1)), rate)
