"""A frame in, matplotlib axes out."""

from gradlab.plots.responses import plot_responses, responses_figure
from gradlab.plots.theme import theme

__all__ = ["plot_responses", "responses_figure", "theme"]
