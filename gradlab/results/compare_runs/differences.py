"""Where two runs part: bit by bit, in what was set, in states such as exactly 0, and beyond noise."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradlab.results.compare_runs.departure import CHANGE, FACTOR, LEAST_RECORDS, Mask, departures
from gradlab.results.compare_runs.pairs import Pair
from gradlab.results.dynamics.names import SHARES
from gradlab.results.dynamics.rules import out_of_line
from gradlab.results.dynamics.tables import Array
from gradlab.stats.verdict import FALSE_ALARMS

APART = 10.0
"""The least factor between a layer's ratio of the two runs and that of all, from which on it differs from the start."""

_ZERO_RECORDS = 3
"""Records in which a value of one run alone is exactly 0, at least."""

_VANISHED = 1e-6
"""Of the largest value of a layer: less is no size that exactly 0 differs from."""

_ORDER = ("weight_norm", "learning_rate", "response_", "zero_", "dead_", "saturated_", "non_finite", "loss")
_BACKWARD = ("response_grad", "grad_", "relative")


@dataclass(frozen=True)
class Difference:
    """Where two runs begin to differ in one statistic of one layer.

    Attributes:
        kind: `bits`, `setting`, `state`, `start` or `noise`.
        statistic: Its name.
        layer: Its name; of several, the first in the order of what was computed in a step.
        index: Its place in the order of execution.
        step: The first step at which they do.
        before: The ratio of the second to the first before (of shares and cosines, the difference); NaN if unknown.
        first: The value of the first run at that step.
        second: The value of the second run.
        layers: The number of layers that differ in this way, at that step or later.
    """

    kind: str
    statistic: str
    layer: str
    index: int
    step: int
    before: float
    first: float
    second: float
    layers: int

    @property
    def change(self) -> float:
        """The ratio of the second to the first at that step; of shares and cosines, the difference."""
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = np.float64(self.first), np.float64(self.second)
            return float(other - one if by_difference(self.statistic) else other / one)

    @property
    def order(self) -> tuple[int, int, int]:
        """The order in which differences are computed: by step, kind of statistic, and layer, backward from the end."""
        if self.statistic.startswith(_BACKWARD):
            return self.step, len(_ORDER), -self.index
        group = next((place for place, name in enumerate(_ORDER) if self.statistic.startswith(name)), len(_ORDER) + 1)
        # What is of the whole model comes after what it is made of.
        return self.step, group, self.index or sys.maxsize


def first_bit(pair: Pair) -> Difference | None:
    """The first step at which two series are not equal to the last bit; None if they are at all."""
    differ: Mask = (pair.first != pair.second) & ~(np.isnan(pair.first) & np.isnan(pair.second))
    if not differ.any():
        return None
    record = int(differ.any(axis=1).argmax())
    found = [_difference("bits", pair, record, int(column)) for column in np.flatnonzero(differ[record])]
    return _earliest(found, len(found))


def beyond_noise(pair: Pair, statistics: int) -> Difference | None:
    """The first step at which two series differ by more than noise, by the rules of this module; None if they do not.

    Args:
        pair: The series.
        statistics: The number of pairs that share the rate of false alarms.
    """
    rate = FALSE_ALARMS / statistics
    found = [*_settings(pair), *_states(pair)]
    if not is_setting(pair) and (scaled := _scaled(pair)) is not None:
        one, other, least = scaled
        found += _from_the_start(pair, other - one, rate / 2)
        for part in departures(one, other, least, rate / 2):
            before = -part.before if by_difference(pair.statistic) else 10**-part.before
            found.append(_difference("noise", pair, part.record, part.column, before))
    return _earliest(found, len({one.layer for one in found})) if found else None


def is_setting(pair: Pair) -> bool:
    """Whether a statistic is set and not measured: learning rates."""
    return pair.statistic.startswith("learning_rate")


def by_difference(statistic: str) -> bool:
    """Whether a statistic is compared by differences, as shares and cosines are, and not by ratios."""
    return statistic in SHARES or statistic == "update_cosine"


def is_compared(pair: Pair) -> bool:
    """Whether noise is judged; values of either sign without a range of their own are compared bit by bit only."""
    return is_setting(pair) or _scaled(pair) is not None


def _difference(kind: str, pair: Pair, record: int, column: int, before: float = np.nan) -> Difference:
    values = float(pair.first[record, column]), float(pair.second[record, column])
    place = pair.layers[column], pair.indices[column], pair.steps[record]
    return Difference(kind, pair.statistic, *place, before, *values, 1)


def _earliest(found: Sequence[Difference], layers: int) -> Difference:
    first = min(found, key=lambda one: one.order)
    return Difference(**{**vars(first), "layers": layers})


def _settings(pair: Pair) -> Iterator[Difference]:
    if is_setting(pair):
        differ = ~np.isclose(pair.first, pair.second, rtol=1e-9, atol=0, equal_nan=True)
        for column in np.flatnonzero(differ.any(axis=0)):
            yield _difference("setting", pair, int(differ[:, column].argmax()), int(column))


def _states(pair: Pair) -> Iterator[Difference]:
    """Where one run alone is not finite, or exactly 0 in three records, and neither was before in this layer."""
    odd: list[Mask] = [np.isinf(values) for values in (pair.first, pair.second)]
    found = _alone(odd[0], odd[1], 1)
    if not by_difference(pair.statistic):
        recorded = ~np.isnan(pair.first) & ~np.isnan(pair.second)
        zero = [(values == 0) & recorded for values in (pair.first, pair.second)]
        # A value that has vanished but for rounding is as good as 0.
        size = np.nanmax(np.where(np.isfinite(both := np.fmax(pair.first, pair.second)), both, 0), axis=0)
        found |= _alone(zero[0], zero[1], _ZERO_RECORDS) & (both > _VANISHED * size)
    for column in np.flatnonzero(found.any(axis=0)):
        yield _difference("state", pair, int(found[:, column].argmax()), int(column))


def _alone(one: Mask, other: Mask, records: int) -> Mask:
    """The first record of so many in which one is and the other is not, where neither was before."""
    alone, either = one ^ other, one | other
    never: Mask = np.concatenate([np.zeros((1, either.shape[1]), bool), np.logical_or.accumulate(either)[:-1]])
    held = alone & ~never
    for ahead in range(1, records):
        later = np.zeros_like(alone)
        later[:-ahead] = alone[ahead:]
        held &= later
    return held


def _scaled(pair: Pair) -> tuple[Array, Array, float] | None:
    """The two on a scale on which differences are compared, with the least difference; None if there is none."""
    values = [np.where(np.isinf(run), np.nan, run) for run in (pair.first, pair.second)]
    if by_difference(pair.statistic):
        return values[0], values[1], CHANGE
    if any((run < 0).any() for run in values):
        return None
    with np.errstate(divide="ignore"):
        logs = [np.log10(np.where(run == 0, np.nan, run)) for run in values]
    return logs[0], logs[1], float(np.log10(FACTOR))


def _from_the_start(pair: Pair, gap: Array, rate: float) -> Iterator[Difference]:
    """Layers whose ratio in the first records is out of line with those of the others."""
    early = gap[:LEAST_RECORDS]
    if by_difference(pair.statistic) or len(early) < LEAST_RECORDS:
        return
    whole = np.flatnonzero(~np.isnan(early).any(axis=0))
    ratios = 10 ** np.median(early[:, whole], axis=0)
    for place in out_of_line(ratios, APART, rate):
        yield _difference("start", pair, 0, int(whole[place]))
