"""The gallery: the figures of the papers that gradlab rebuilds, with their measurements."""

from gradlab.gallery.figure import Figure, NotAtHand
from gradlab.gallery.figures import FIGURES, find_figures
from gradlab.gallery.readme import readme
from gradlab.gallery.render import render

__all__ = ["FIGURES", "Figure", "NotAtHand", "find_figures", "readme", "render"]
