"""One look for every figure: fit for print at the width of a column, readable in grey."""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl

COLUMN_WIDTH = 85 / 25.4
"""Width of one column of a paper, in inches (85 mm)."""

PAGE_WIDTH = 178 / 25.4
"""Width of both columns, in inches (178 mm)."""

FAMILY_DASHES: dict[str, Any] = {"plain": (0, (3.2, 1.6)), "residual": "-"}
"""Plain nets are dashed, residual nets solid, in every figure."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "legend.fontsize": 6.5,
    "legend.title_fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "figure.dpi": 150,
    "savefig.dpi": 400,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "gradlab",
}


def theme() -> AbstractContextManager[None]:
    """A context in which matplotlib draws as gradlab does.

    with gl.theme():
        fig, ax = plt.subplots()
    """
    return mpl.rc_context(_STYLE)


def depth_colors(keys: list[Any]) -> dict[Any, Any]:
    """A colour for each key, from dark to light in their order: told apart in grey and by colour-blind eyes."""
    if len(keys) == 1:
        return {keys[0]: "#1f3b73"}
    cmap = mpl.colormaps["viridis"]
    return {key: cmap(0.05 + 0.75 * place / (len(keys) - 1)) for place, key in enumerate(keys)}
