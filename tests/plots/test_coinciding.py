"""Curves on one another get markers, each in places of its own."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.lines import Line2D

from gradlab.plots.coinciding import mark_coinciding


def curves(*values: np.ndarray, log: bool = False) -> list[Line2D]:
    figure, ax = plt.subplots()
    lines = [ax.plot(range(len(y)), y)[0] for y in values]
    ax.set(ylim=(1e-4, 1) if log else (0, 1), yscale="log" if log else "linear")
    plt.close(figure)
    return lines


def marked_places(line: Line2D) -> set[int]:
    if line.get_marker() == "None":
        return set()
    start, step = line.get_markevery()  # type: ignore[misc]
    return set(range(start, len(line.get_xdata()), step))  # type: ignore[arg-type]


RAMP = np.linspace(0.2, 0.8, 21)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_curves_that_coincide_are_marked_apart(count: int) -> None:
    lines = curves(*[RAMP] * count, 1 - RAMP)
    mark_coinciding(lines, ["o", "s", "D", "^", "v", "P"][: count + 1])
    places = [marked_places(line) for line in lines]
    assert all(len(own) >= 4 for own in places[:-1])
    assert len(set().union(*places)) == sum(map(len, places)), "no two markers stand in one place"
    assert lines[-1].get_marker() == "None"


def test_curves_of_other_lengths_coincide_where_both_are() -> None:
    lines = curves(RAMP, RAMP[:8], RAMP + 0.1)
    mark_coinciding(lines, ["o", "s", "D"])
    assert [line.get_marker() for line in lines] == ["o", "s", "None"]


def test_what_is_near_depends_on_the_axis() -> None:
    small = np.full(9, 1e-3)
    apart, together = curves(small, 3 * small, log=True), curves(small, 3 * small)
    for lines in (apart, together):
        mark_coinciding(lines, ["o", "s"])
    assert [line.get_marker() for line in apart] == ["None", "None"]
    assert [line.get_marker() for line in together] == ["o", "s"]
