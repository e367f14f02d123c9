"""The rules by which layers and steps stand out: numbers in, numbers out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradlab.results.dynamics.tables import Array
from gradlab.stats.verdict import FALSE_ALARMS, critical

DEAD = 0.75
"""The share of units from which on a layer is said to be dead.

Half of them is no sign of a fault: in a deep ReLU net at initialization all inputs point in nearly the same direction,
so that every unit is either 0 or not 0 for all of them, with equal probability.
"""

SATURATED = 0.5
"""The share of values from which on a layer is said to be saturated."""

APART = 30.0
"""Factor between a layer and the median of all, from which on its update is out of line."""

LEAST_UPDATES = 3
"""The fewest records whose updates are compared: the first step of many optimizers is unlike all others."""

JUMP = 30.0
"""Factor between the responses of two layers, from which on it is out of line with those of other layers."""

CLIPPED = 1000.0
"""Factor by which gradients are made smaller before the step, from which on clipping is told."""

CANCELLED = 0.95
"""The share of the elements of weights whose update rounding cancels (Zamirai et al. 2020, arXiv:2010.06192), if told.

Less is common: of weights of std 0.02 in bfloat16, the first step of Adam with a learning rate of 1e-5 leaves 85 %.
"""

SPIKE = 5.0
"""Factor between a gradient norm and the median of the records before it, from which on it is a spike."""

DIVERGED = 5.0
"""Factor between the first and each of the last three losses and gradient norms, from which on a training diverges."""

LEAST_RECORDS = 8
"""Records before a step that it is held against, at least."""

WINDOW = 32
"""Records before a step that it is held against, at most."""

_EFFICIENCY = 0.37
_LEAST_SPREAD = 0.01
"""Of decimal logarithms: less is no spread that a deviation is measured by."""


def out_of_line(values: Array, factor: float, rate: float = FALSE_ALARMS) -> list[int]:
    """The places of values that lie far from all others.

    Those whose logarithm deviates from the median of the others by more than `factor`, and from these by more than any
    of so many normal values does in all but `rate` of cases; see `_is_beyond`.

    Args:
        values: Those above 0 and finite are compared; of fewer than five none is out of line.
        factor: The least.
        rate: Share of false alarms.
    """
    there = np.flatnonzero(np.isfinite(values) & (values > 0))
    if len(there) < 5:
        return []
    logs = np.log10(values[there])
    return [
        int(there[place])
        for place, own in enumerate(logs)
        if _is_beyond(own, np.delete(logs, place), factor, rate / len(logs))
    ]


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
    # Most values are not even as far above the smallest of those before, which takes no logarithm to see.
    if len(before) < LEAST_RECORDS or not values[place] > factor * before.min():
        return False
    own, logs = float(np.log10(values[place])), np.log10(before)
    return own > np.median(logs) and _is_beyond(own, logs, factor, rate / len(values))


def spikes(values: Array, factor: float = SPIKE, rate: float = FALSE_ALARMS) -> list[int]:
    """The places at which a series begins to lie far above what was before; see `exceeds`."""
    found = [place for place in range(len(values)) if exceeds(values, place, factor, rate)]
    return [place for place in found if place - 1 not in found]


def clipping(before: Array, given: Array) -> float | None:
    """By what clipping divides gradients, if that is `CLIPPED` or more: the median over records.

    None where the factor is the same at all of them, to a thousandth: a scale of the loss that the loop divides out by
    itself has one, clipping does not, unless all gradients are equally large.

    Args:
        before: Norms of gradients as backward passes left them, of `LEAST_UPDATES` records or more.
        given: As the optimizer was given them, at the same records.
    """
    told = np.isfinite(before) & np.isfinite(given) & (before > 0) & (given > 0)
    if told.sum() < LEAST_UPDATES:
        return None
    factors: Array = before[told] / given[told]
    factor = float(np.median(factors))
    return factor if factor >= CLIPPED and factors.max() > 1.001 * factors.min() else None


def at_full_rate(rates: Array, highest: float = 0.0) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """At which records a learning rate was at least half its highest, after this was first reached.

    Args:
        rates: In time, one or more.
        highest: The highest before these records.
    """
    top = max(highest, float(rates.max(initial=0.0)))
    reached = np.maximum.accumulate(np.append(highest, rates))[1:] >= top
    return reached & (rates >= top / 2)


def since(held: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    """From which place on a condition has held to the end.

    Args:
        held: Whether it does, by place; at the last one it does.
    """
    broken = np.flatnonzero(~held)
    return int(broken[-1]) + 1 if len(broken) else 0


def _is_beyond(own: float, others: Array, factor: float, rate: float) -> bool:
    """Whether a logarithm lies farther from others than chance has it, and than a factor.

    Chance is judged in two ways, at half the rate each: by mean and standard deviation, which is exact for normal
    values, and by median and median absolute deviation, which other values far off do not blind. The latter has 37 %
    of the efficiency of the former (Rousseeuw and Croux 1993): as many degrees of freedom fewer.
    """
    middle = float(np.median(others))
    if abs(own - middle) <= math.log10(factor):
        return False
    count = len(others)
    usual = max(_LEAST_SPREAD, float(others.std(ddof=1)))
    robust = max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(others - middle))))
    wider = math.sqrt(1 + 1 / count)
    return bool(
        abs(own - others.mean()) > critical(count - 1, rate / 2) * usual * wider
        or abs(own - middle) > critical(max(1.0, _EFFICIENCY * (count - 1)), rate / 2) * robust * wider
    )
