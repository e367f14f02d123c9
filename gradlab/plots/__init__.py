"""A frame in, matplotlib axes out."""

from gradlab.plots.responses import plot_responses, responses_figure
from gradlab.plots.shatter import acf_figure, plot_acf, signals_figure
from gradlab.plots.shatter_depth import coactivation_figure, correlation_figure
from gradlab.plots.theme import theme

__all__ = [
    "acf_figure",
    "coactivation_figure",
    "correlation_figure",
    "plot_acf",
    "plot_responses",
    "responses_figure",
    "signals_figure",
    "theme",
]
