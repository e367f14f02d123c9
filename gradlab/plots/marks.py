"""Marks that distinguish the kinds of layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
_STYLE: dict[str, Any] = {"linestyle": "", "markersize": 2.6, "markeredgewidth": 0.6}
_HOLLOW: dict[str, Any] = {"markerfacecolor": "white"}

SHORTCUT = "projection of a shortcut"


def kind_marks(kinds: Iterable[str]) -> dict[str, str]:
    """A mark for each kind in order; from the thirteenth kind on it is a number."""
    names = dict.fromkeys(kinds)
    return {name: _MARKS[n] if n < len(_MARKS) else f"${n + 1}$" for n, name in enumerate(names)}


def plot_marks(rows: pd.DataFrame, ax: Axes, value: str, color: Any, marks: dict[str, str]) -> None:
    """Draw rows as marks by kind; those of shortcuts are hollow.

    Args:
        rows: The rows, with the columns index, mark (a key of `marks`), shortcut and the column of the value.
        ax: The axes.
        value: The column to draw.
        color: The colour of all marks.
        marks: The marks by kind.
    """
    for (kind, shortcut), part in rows.groupby(["mark", "shortcut"], sort=False):
        style = _STYLE | {"color": color, "marker": marks[kind]} | (_HOLLOW if shortcut else {})
        ax.plot(part["index"].astype(float), part[value].astype(float), zorder=3, **style)


def mark_handles(rows: pd.DataFrame, marks: dict[str, str]) -> list[Line2D]:
    """The legend entries for the marks of these rows."""
    style = _STYLE | {"color": "0.35"}
    whole = {*rows.loc[~rows["shortcut"], "mark"]}
    handles = [Line2D([], [], label=kind, marker=mark, **style) for kind, mark in marks.items() if kind in whole]
    hollow = dict.fromkeys(rows.loc[rows["shortcut"], "mark"])
    return handles + [Line2D([], [], label=SHORTCUT, marker=marks[kind], **style, **_HOLLOW) for kind in hollow]
