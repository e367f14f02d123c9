"""Errors at the end of trainings: He et al. 2015, Table 6."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gradlab.plots.style import COLUMN_WIDTH

_MARKS: dict[str, dict[str, Any]] = {
    "train error (%)": {"marker": "o", "color": "0.35", "markerfacecolor": "none", "label": "training"},
    "test error (%)": {"marker": "o", "color": "black", "label": "test"},
    "paper (%)": {"marker": "|", "color": "black", "markersize": 11, "markeredgewidth": 1.4},
}


def last_errors_figure(errors: pd.DataFrame, figure: Figure, paper: str = "test, paper") -> Figure:
    """Mark each network's training and test error, and the test error that the paper has.

    Args:
        errors: A row a network, in order: network, epochs, and in percent `train error (%)`, `test error (%)` and
            `paper (%)` (missing where the paper has none).
        figure: An empty figure; it gets the width of a column.
        paper: What the paper's errors are called.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(COLUMN_WIDTH, 0.85 + 0.22 * len(errors))
    ax = figure.subplots()
    # Trainings of different lengths do not compare, so the length is read with the name.
    names = [f"{row.network}, {row.epochs:.3g} epochs" for row in errors.itertuples()]
    for column, style in _MARKS.items():
        ax.plot(errors[column], names, linestyle="none", **{"label": paper, **style})
    ax.set(xlabel="error (%)", xlim=(0, 1.08 * errors[list(_MARKS)].max().max()), ylim=(len(errors) - 0.5, -0.5))
    figure.legend(loc="outside upper center", ncols=len(_MARKS), handletextpad=0.2, columnspacing=1.2)
    return figure
