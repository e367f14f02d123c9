"""The rule by which two runs part beyond noise: numbers in, numbers out.

One run each is no sample of runs, so that a difference is held against what the two have shown themselves: how they
differed before, and how each fluctuates. A constant difference, as of two seeds, a drift and common schedules are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradlab.results.dynamics.tables import Array
from gradlab.stats.verdict import FALSE_ALARMS, critical

LEAST_RECORDS = 8
"""Records before a step that it is held against, at least."""

WINDOW = 32
"""Records before a step from which the fluctuation of each run is estimated, at most."""

IN_A_ROW = {1: 3, 4: 2, 16: 2, 64: 2}
"""Records that are judged together, by their medians, and how many such groups in a row have to lie beyond: of many
records, smaller differences are told from noise."""

FACTOR = 2.0
"""The least change of the ratio of two sizes."""

CHANGE = 0.2
"""The least change of the difference of two shares or cosines."""

_LEAST_SPREAD = 0.01
"""Of decimal logarithms, shares and cosines: less is no spread that a deviation is measured by."""

_MOST_FREEDOM = 200
"""Degrees of freedom from which on Student's t hardly changes."""

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Departure:
    """Where two series part.

    Attributes:
        record: The place of the first record at which they do.
        column: The place of the layer.
        before: The mean difference before.
        after: The difference from there on: the median over as many records as were judged together.
    """

    record: int
    column: int
    before: float
    after: float


def departures(one: Array, other: Array, least: float, rate: float) -> list[Departure]:
    """Where each layer of two runs parts, by the past of their difference and by the fluctuation of each.

    Let d be the difference of the two, of single records or of the medians of 4, 16 or 64 successive ones. They part
    where d leaves its mean over all before: by more than `least`, by more than Student's t allows for the standard
    deviation of d over all before, whose autocorrelation counts, and by more than it allows for the fluctuation of the
    two runs, by their changes from record to record over up to 32 before, or from there on if both fluctuate more. It
    has to lie beyond in the same direction in three records or two medians in a row. The rate is divided by the number
    of tests; of medians the fluctuation is that of single records, at 1 %. The first record is the one at which a step
    fits best to the records that were judged together and to as many before.

    Args:
        one: Of shape (records, layers), on a scale on which differences are compared; NaN where there is none.
        other: Likewise.
        least: The least change.
        rate: The rate of false alarms of all of it.

    Returns:
        One for each layer that parts, at the first record at which it does.
    """
    rate /= max(1.0, sum(one.size / scale for scale in IN_A_ROW))
    freedom, fluctuation = _own(one, other)
    found: dict[int, Departure] = {}
    for scale, in_a_row in IN_A_ROW.items():
        own = _critical(freedom, rate if scale == 1 else FALSE_ALARMS) * fluctuation
        gap = _medians(one, scale) - _medians(other, scale)
        mask = _has_left(gap, np.maximum(own[::scale][: len(gap)], least), rate, in_a_row)
        for column in map(int, np.flatnonzero(mask.any(axis=0))):
            start = scale * int(mask[:, column].argmax())
            part = _departure(one[:, column] - other[:, column], start, scale, column)
            if column not in found or part.record < found[column].record:
                found[column] = part
    return list(found.values())


def _departure(gap: Array, start: int, scale: int, column: int) -> Departure:
    record = start if scale == 1 else _step_in(gap, start, scale)
    before, after = gap[:record], gap[record : record + max(scale, IN_A_ROW[1])]
    return Departure(record, column, float(np.nanmean(before)), float(np.nanmedian(after)))


def _step_in(gap: Array, start: int, scale: int) -> int:
    """The record near the beginning of some at which a step fits best, by least squares."""
    low, high = max(1, start - scale + 1), start + scale
    errors = [
        np.nansum((part - np.nanmean(part)) ** 2) + np.nansum((rest - np.nanmean(rest)) ** 2)
        for place in range(low, high)
        for part, rest in [(gap[low - 1 : place], gap[place : high + scale])]
    ]
    return low + int(np.argmin(errors))


def _medians(values: Array, scale: int) -> Array:
    """The medians of so many successive records; the last ones, of which there are too few, are left out."""
    if scale == 1:
        return values
    whole = len(values) // scale * scale
    found: Array = np.median(values[:whole].reshape(-1, scale, values.shape[1]), axis=1)
    return found


def _has_left(gap: Array, least: Array, rate: float, in_a_row: int) -> Mask:
    """Where a difference lies off its mean over all before, by `least` and by more than chance, so often in a row."""
    count, mean, spread = _before(gap)
    left = gap - mean
    for ahead in range(1, in_a_row):
        later = np.full(gap.shape, np.nan)
        later[:-ahead] = gap[ahead:] - mean[:-ahead]
        same = np.sign(later) == np.sign(left)
        left = np.where(same, np.sign(left) * np.minimum(abs(left), abs(later)), np.nan)
    with np.errstate(invalid="ignore"):
        past = _critical(count - 1, rate) * np.maximum(spread, _LEAST_SPREAD) * np.sqrt(1 + 1 / np.maximum(count, 1))
        known = np.arange(len(gap))[:, None] >= LEAST_RECORDS
        found: Mask = known & (count > 2) & (abs(left) > np.maximum(past, least))
    return found


def _before(gap: Array) -> tuple[Array, Array, Array]:
    """Of all records before each: the number of independent ones, their mean and standard deviation.

    Of n values with autocorrelation ρ at lag 1, n (1 − ρ) / (1 + ρ) are taken to be independent.
    """
    there = np.isfinite(gap)
    # Sums of squares are taken about the mean, from which they hardly differ in size.
    middle = np.where(there, gap, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    known = np.where(there, gap - middle, 0.0)
    lagged = np.concatenate([np.zeros((1, gap.shape[1])), known[1:] * known[:-1]])
    sums = [_shifted(part.cumsum(axis=0)) for part in (there.astype(float), known, known**2, lagged)]
    count, total, squares, products = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        left = np.maximum(squares - total * mean, 0.0)
        memory = np.clip(np.nan_to_num((products - total * mean) / left), 0.0, 0.999)
        spread = np.sqrt(left / (count - 1))
    return count * (1 - memory) / (1 + memory), mean + middle, spread


def _shifted(values: Array) -> Array:
    return np.concatenate([np.zeros((1, values.shape[1])), values[:-1]])


def _own(one: Array, other: Array) -> tuple[Array, Array]:
    """The degrees of freedom and the fluctuation of a difference of two runs, from each run by itself.

    That of the records before; or of those from a record on, if the calmer of the two fluctuates more there.
    """
    (count, size), (count_other, size_other) = (_fluctuation(run) for run in (one, other))
    # The window that begins at a record is, in reversed order, the one before the record that precedes it.
    after = [_fluctuation(run[::-1]) for run in (one, other)]
    calmer = np.zeros(one.shape)
    calmer[1:] = np.min([np.where(n < LEAST_RECORDS, 0.0, left)[::-1] for n, left in after], axis=0)[:-1]
    own = np.maximum(np.hypot(size, size_other), np.sqrt(2) * calmer)
    return np.minimum(count, count_other) - 1, np.maximum(own, _LEAST_SPREAD)


def _fluctuation(run: Array) -> tuple[Array, Array]:
    """Of up to `WINDOW` records before each: their number, and the standard deviation of independent normal noise.

    It is taken from the mean absolute change from one record to the next, which is 2/√π standard deviations, and in
    which a trend or a single jump is small.
    """
    change = np.concatenate([np.full((1, run.shape[1]), np.nan), abs(np.diff(run, axis=0))])
    there = np.isfinite(change)
    count, total = _windowed(there.astype(float)), _windowed(np.where(there, change, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return count, np.where(count > 1, np.sqrt(np.pi) / 2 * total / count, np.inf)


def _windowed(values: Array) -> Array:
    """Sums over the `WINDOW` records before each."""
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(axis=0)])[:-1]
    found: Array = sums.copy()
    found[WINDOW:] -= sums[:-WINDOW]
    return found


def _critical(freedom: Array, rate: float) -> Array:
    """The critical values of Student's t for a table of degrees of freedom, rounded down so that few are computed."""
    freedoms, places = np.unique(np.clip(np.floor(freedom), 1, _MOST_FREEDOM), return_inverse=True)
    values = np.array([critical(float(number), rate) for number in freedoms])
    found: Array = values[places].reshape(freedom.shape)
    return found
