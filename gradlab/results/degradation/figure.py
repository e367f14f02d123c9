"""Errors at the end of training: He et al. 2015, Table 6; and accuracies against depth."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gradlab.plots.networks import series_styles
from gradlab.plots.style import COLUMN_WIDTH, DOTTED
from gradlab.results.degradation.published import PAPERS_EPOCHS

# It shows around the dot of an equal test error.
_MARKS: dict[str, dict[str, Any]] = {
    "train error (%)": {
        "marker": "o",
        "color": "0.35",
        "markerfacecolor": "none",
        "markersize": 5.2,
        "label": "training",
    },
    "test error (%)": {"marker": "o", "color": "black", "label": "test"},
    "paper (%)": {"marker": "|", "color": "black", "markersize": 11, "markeredgewidth": 1.4, "label": "test, paper"},
}


def last_errors_figure(errors: pd.DataFrame, figure: Figure) -> Figure:
    """Mark each network's training and test error, and the paper's test error for trainings of its length.

    Args:
        errors: One row per network in order: network, epochs, `train error (%)` and `test error (%)` in percent, and
            `paper (%)` if the paper has an error.
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(COLUMN_WIDTH, 0.85 + 0.22 * len(errors))
    ax = figure.subplots()
    # Trainings of different lengths are not comparable, so the length is given with the name.
    names = [f"{row.network}, {row.epochs:.3g} epochs" for row in errors.itertuples()]
    errors = errors.reindex(columns=["epochs", *_MARKS])
    errors["paper (%)"] = errors["paper (%)"].astype(float).where(errors["epochs"] >= PAPERS_EPOCHS)
    errors = errors.dropna(axis="columns", how="all")
    marks = {column: style for column, style in _MARKS.items() if column in errors}
    for column, style in marks.items():
        ax.plot(errors[column], names, linestyle="none", **style)
    ax.set(xlabel="error (%)", xlim=(0, 1.08 * errors[list(marks)].max().max()), ylim=(len(errors) - 0.5, -0.5))
    figure.legend(loc="outside upper center", ncols=len(marks), handletextpad=0.2, columnspacing=1.2)
    return figure


def accuracies_figure(accuracies: pd.DataFrame, looks: dict[str, str], chance: float, figure: Figure) -> Figure:
    """Draw the test accuracy of several series of networks against depth, on a logarithmic axis.

    Args:
        accuracies: One row per network: series, depth, and test accuracy in percent.
        looks: The style of each series, by its name.
        chance: The accuracy of random answers in percent, a dotted line.
        figure: An empty figure; it gets the width of a column.

    Returns:
        The same figure.
    """
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    figure.set_size_inches(COLUMN_WIDTH, 2.4)
    ax = figure.subplots()
    for series, style in series_styles(looks).items():
        rows = accuracies[accuracies["series"] == series].sort_values("depth")
        ax.plot(rows["depth"], rows["test accuracy (%)"], label=series, **style)
    ax.axhline(chance, color="0.5", linewidth=0.8, linestyle=DOTTED, zorder=1)
    depths = sorted(set(accuracies["depth"]))
    ax.set(xscale="log", xlabel="depth (weighted layers)", ylabel="test accuracy (%)")
    ax.set_xticks(depths, labels=[str(depth) for depth in depths])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.annotate("chance", (depths[0], chance), xytext=(0, -8), textcoords="offset points", fontsize=6, color="0.4")
    figure.legend(loc="outside upper center", ncols=2 if max(map(len, looks)) > 12 else len(looks))
    return figure
