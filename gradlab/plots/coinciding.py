"""Coinciding curves, distinguished by markers at different places."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from matplotlib.lines import Line2D

NEAR = 0.008
"""The fraction of the height of the axes within which two points look like one."""

_MARKS_ON_A_LINE = 5
_SIZE = 3.0


def mark_coinciding(lines: Sequence[Line2D], markers: Sequence[str]) -> None:
    """Put markers on lines that coincide with another line at more than half of their common abscissae.

    The markers of different lines are at different places.

    Args:
        lines: The lines of one axes, whose limits and scales are final.
        markers: The marker for each line.
    """
    pairs = [{one, other} for one, other in combinations(range(len(lines)), 2) if _coincide(lines[one], lines[other])]
    chosen = sorted(set().union(*pairs))
    for place, number in enumerate(chosen):
        line = lines[number]
        step = max(len(chosen), -(-len(line.get_xdata()) // _MARKS_ON_A_LINE))  # type: ignore[arg-type]
        line.set(marker=markers[number], markersize=_SIZE, markevery=(place * step // len(chosen), step))


def _coincide(one: Line2D, other: Line2D) -> bool:
    first, second = _heights(one), _heights(other)
    shared = first.keys() & second.keys()
    near = sum(abs(first[x] - second[x]) < NEAR for x in shared)
    return len(shared) > 1 and 2 * near > len(shared)


def _heights(line: Line2D) -> dict[float, float]:
    """The height of each point of a line in its axes, from 0 to 1, by its abscissa."""
    assert line.axes is not None
    points = np.asarray(line.get_xydata(), dtype=float)
    heights = (line.axes.transScale + line.axes.transLimits).transform(points)[:, 1]
    return dict(zip(points[:, 0].tolist(), heights.tolist(), strict=True))
