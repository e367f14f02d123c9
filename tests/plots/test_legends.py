"""Legends of names of any length lie within their figures."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.plots.networks import fitting_columns
from gradlab.plots.style import COLUMN_WIDTH, PAGE_WIDTH, theme

LONG = ["resnet14-preact-width=8", "resnet14-width=8-shortcut-dropout=0.5", "plain14-width=8", "highway19-width=8"]
WIDE = ["densenet100-bc-k12@init", "vovnet57@init"] * 4


@pytest.mark.parametrize("width", [COLUMN_WIDTH, PAGE_WIDTH])
@pytest.mark.parametrize("labels", [LONG, [*LONG, "intact", "changes the shape"], WIDE, ["plain20"] * 9])
def test_a_legend_is_not_wider_than_its_figure(labels: list[str], width: float) -> None:
    columns = fitting_columns(labels, width, 6)
    with theme():
        figure = Figure(figsize=(width, 3))
        FigureCanvasAgg(figure)
        legend = figure.legend(handles=[Line2D([], [], label=label) for label in labels], ncols=columns)
        figure.draw_without_rendering()
        assert legend.get_window_extent().width <= figure.bbox.width


def test_short_names_stand_in_one_row_and_a_long_one_alone() -> None:
    assert fitting_columns(["resnet110", "plain56", "intact", "changes the shape"], PAGE_WIDTH, 6) == 4
    assert fitting_columns(["n" * 200, "m"], COLUMN_WIDTH, 6) == 1
