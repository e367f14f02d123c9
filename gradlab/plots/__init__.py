"""A frame in, matplotlib axes out."""

from gradlab.plots.input_gradients import input_gradients_figure, plot_against_depth
from gradlab.plots.responses import plot_responses, responses_figure
from gradlab.plots.theme import theme

__all__ = ["input_gradients_figure", "plot_against_depth", "plot_responses", "responses_figure", "theme"]
