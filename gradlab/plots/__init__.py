"""A frame in, matplotlib axes out."""

from gradlab.plots.architectures import architectures_figure
from gradlab.plots.dynamics import dynamics_figure, plot_layers_by_step
from gradlab.plots.gradients import gradients_figure, plot_gradients, plot_ratios
from gradlab.plots.input_gradients import input_gradients_figure, plot_against_depth
from gradlab.plots.last_errors import last_errors_figure
from gradlab.plots.responses import plot_responses, responses_figure
from gradlab.plots.shatter import acf_figure, plot_acf, signals_figure
from gradlab.plots.shatter_depth import coactivation_figure, correlation_figure
from gradlab.plots.shatter_theory import theory_figure
from gradlab.plots.theme import COLUMN_WIDTH, PAGE_WIDTH, theme
from gradlab.plots.training import errors_figure, plot_errors

__all__ = [
    "COLUMN_WIDTH",
    "PAGE_WIDTH",
    "acf_figure",
    "architectures_figure",
    "coactivation_figure",
    "correlation_figure",
    "dynamics_figure",
    "errors_figure",
    "gradients_figure",
    "input_gradients_figure",
    "last_errors_figure",
    "plot_acf",
    "plot_against_depth",
    "plot_errors",
    "plot_gradients",
    "plot_layers_by_step",
    "plot_ratios",
    "plot_responses",
    "responses_figure",
    "signals_figure",
    "theme",
    "theory_figure",
]
