"""One look for every figure: fit for print at the width of a column, readable in grey."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.colors import to_hex, to_rgb

COLUMN_WIDTH = 85 / 25.4
"""Width of one column of a paper, in inches (85 mm)."""

PAGE_WIDTH = 178 / 25.4
"""Width of both columns, in inches (178 mm)."""

KIND_DASHES: dict[str, Any] = {
    "plain": (0, (3.2, 1.6)),
    "residual": "-",
    "looks-linear": (0, (7, 1.6)),
    "other": (0, (5, 1.2, 1, 1.2)),
}
"""Plain nets are dashed, residual nets solid, all others dashed and dotted, in every figure."""

KIND_COLORS = {"residual": "#1f3b73", "plain": "#bb5566", "looks-linear": "#ddaa33", "other": "#7aa88f"}
"""Where depth is not the colour, the kind is: dark, middle and light, so that grey tells them apart as well."""

KIND_MARKERS = {"plain": "s", "residual": "o", "looks-linear": "D", "other": "^"}
"""And its mark, where points are what is seen."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(linestyle=["-", KIND_DASHES["plain"], (0, (1, 1))])
    * cycler(color=list(KIND_COLORS.values())[:3]),
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "legend.fontsize": 6.5,
    "legend.title_fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 2.1,
    "legend.handletextpad": 0.6,
    "legend.columnspacing": 1.0,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "figure.dpi": 150,
    "figure.figsize": (COLUMN_WIDTH, 2.4),
    "figure.constrained_layout.use": True,
    "savefig.dpi": 400,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "gradlab",
}


def theme() -> AbstractContextManager[None]:
    """A context in which matplotlib draws as gradlab does: 85 mm wide, labels of 8 pt, TrueType fonts in PDFs.

    Nine lines in turn are told apart, in grey too. Make the figure inside, and save it there.

        with gl.theme():
            fig, ax = plt.subplots()
            ax.plot(x, y)
            fig.savefig("mine.pdf")
    """
    return mpl.rc_context(_STYLE)


def depth_colors(keys: list[Any]) -> dict[Any, Any]:
    """A colour for each key, from dark to light in their order: told apart in grey and by colour-blind eyes."""
    if len(keys) == 1:
        return {keys[0]: "#1f3b73"}
    cmap = mpl.colormaps["viridis"]
    return {key: cmap(0.05 + 0.75 * place / (len(keys) - 1)) for place, key in enumerate(keys)}


def look(kind: str | None, unit: str | None = None) -> str:
    """How a network is drawn: as one of `KIND_COLORS`, by its kind and unit as its description has them."""
    if unit == "crelu":
        return "looks-linear"
    return kind if kind in ("plain", "residual") else "other"


def kind_colors(looks: Sequence[str]) -> list[str]:
    """A colour for each of several series, by how they are drawn; those of one look get lighter in turn."""
    return [
        _lighter(KIND_COLORS[name], looks[:place].count(name) / looks.count(name)) for place, name in enumerate(looks)
    ]


def _lighter(color: str, share: float) -> str:
    """Mixed with white, at most three quarters of it."""
    red, green, blue = (1 - (1 - part) * (1 - 0.75 * share) for part in to_rgb(color))
    return to_hex((red, green, blue))
