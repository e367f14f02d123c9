"""The gallery: every figure of the papers that is rebuilt here, and what rebuilds it."""

from gradlab.gallery.figure import Figure, NotAtHand
from gradlab.gallery.figures import FIGURES, find_figures
from gradlab.gallery.readme import readme
from gradlab.gallery.render import render

__all__ = ["FIGURES", "Figure", "NotAtHand", "find_figures", "readme", "render"]
