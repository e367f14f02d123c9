"""Errors of the cases of a table, measured and published side by side: He et al. 2016, Tables 1 and 2."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradlab.plots.style import DOTTED, PAGE_WIDTH
from gradlab.results.degradation.published import FAIL

FAIL_ABOVE = 20.0
"""The error in percent above which He et al. 2016 write that a net fails; the end of the axes."""

_MARGIN = 1.28
"""The width of axes with space for words beyond their end, relative to that end."""

# A ring shows around the dot of an equal test error.
_TRAIN: dict[str, Any] = {"marker": "o", "color": "0.35", "markerfacecolor": "white", "markersize": 5.2}
_TEST: dict[str, Any] = {"marker": "o", "color": "black"}
_PUBLISHED: tuple[dict[str, Any], ...] = (
    {"marker": "D", "color": "black"},
    {"marker": "D", "color": "0.35", "markerfacecolor": "white"},
)


def cases_figure(cases: pd.DataFrame, here: str, figure: Figure) -> Figure:
    """Mark training and test error of every case beside the errors that the paper publishes.

    A line through a test error ends at the lowest and the highest of the seeds, and a dotted line shows the test error
    of the first case. Errors beyond the end of the axis are written there.

    Args:
        cases: One row per case in order: case, `train error (%)` and `test error (%)` (missing without a run),
            `lowest (%)` and `highest (%)` of test errors over seeds, and columns `paper, NETS (%)` with an error in
            percent or "fail".
        here: The title of the measured errors.
        figure: An empty figure; it gets the width of a page.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(PAGE_WIDTH, 0.95 + 0.19 * len(cases))
    measured, published = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    _measured(cases, measured)
    _published(cases, published)
    fail = f" ({FAIL}: above {FAIL_ABOVE:.0f} %)" if cases.eq(FAIL).any(axis=None) else ""
    titles = {measured: here, published: f"He et al. 2016{fail}"}
    for ax, title in titles.items():
        ax.legend(
            title=title,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=2,
            alignment="left",
            borderpad=0.0,
            handletextpad=0.1,
            title_fontsize=7.5,
        )
        ax.set_xlabel("error (%)")
        ax.tick_params(axis="y", length=0)
    measured.set_yticks(range(len(cases)), list(cases["case"]))
    measured.set_ylim(len(cases) - 0.5, -0.5)
    return figure


def _measured(cases: pd.DataFrame, ax: Axes) -> None:
    train, test = cases["train error (%)"], cases["test error (%)"]
    # The axis ends as the paper's table does, unless short trainings of the first case itself end near it.
    first = max(train.iloc[0], test.iloc[0])
    end = _end_of_axis([*train, *test], FAIL_ABOVE if first < 0.75 * FAIL_ABOVE else min(100.0, 2.0 * float(first)))
    rows = range(len(cases))
    ax.axvline(test.iloc[0], color="0.5", linewidth=0.8, linestyle=DOTTED, zorder=1)
    within = test <= end
    lowest, highest = cases["lowest (%)"].where(within), cases["highest (%)"].where(within)
    ax.hlines(rows, lowest, highest, color="black", linewidth=0.8)
    beyond = []
    for sign, name, errors, style in (("○", "training", train, _TRAIN), ("●", "test", test, _TEST)):
        ax.plot(errors.where(errors <= end), rows, linestyle="none", label=name, **style)
        beyond.append([f"{sign} {error:.1f}" if error > end else "" for error in errors])
    written = ["  ".join(filter(None, pair)) for pair in zip(*beyond, strict=True)]
    _end_at(ax, end, ["no run" if pd.isna(error) else words for error, words in zip(train, written, strict=True)])


def _published(cases: pd.DataFrame, ax: Axes) -> None:
    columns = cases[[name for name in cases if str(name).startswith("paper, ")]]
    errors = columns.replace(FAIL, math.inf).astype(float)
    for column, style in zip(columns, _PUBLISHED, strict=False):
        label = str(column)[len("paper, ") : -len(" (%)")]
        ax.plot(errors[column].replace(math.inf, math.nan), range(len(cases)), linestyle="none", label=label, **style)
    fails = columns.eq(FAIL).any(axis=1)
    _end_at(ax, _end_of_axis(errors.to_numpy().ravel(), FAIL_ABOVE), [FAIL if one else "" for one in fails])


def _end_at(ax: Axes, end: float, written: list[str]) -> None:
    """Set the horizontal axis, with words for each row in the space beyond its end."""
    width = _MARGIN * end if any(written) else end
    ax.axvline(end, color="0.9", linewidth=0.5, zorder=0)
    ax.set_xlim(0, width)
    ax.set_xticks([tick for tick in MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(0, end) if tick <= end])
    for row, words in enumerate(written):
        if words:
            look: dict[str, Any] = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            ax.text(width, row, words, ha="right", va="center_baseline", fontsize=6.5, bbox=look)


def _end_of_axis(errors: Iterable[float], most: float) -> float:
    """The largest error with some space, or `most` if there are errors beyond it."""
    largest = max(error for error in errors if not math.isnan(error))
    return most if largest > most else min(most, 1.08 * largest)
