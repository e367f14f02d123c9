"""The look of every figure, for print at the width of a column and readable in greyscale."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap, to_hex

COLUMN_WIDTH = 85 / 25.4
"""The width of one column of a paper, in inches (85 mm)."""

PAGE_WIDTH = 178 / 25.4
"""The width of both columns, in inches (178 mm)."""

KIND_DASHES: dict[str, Any] = {
    "plain": (0, (3.2, 1.6)),
    "residual": "-",
    "looks-linear": (0, (7, 1.6)),
    "other": (0, (5, 1.2, 1, 1.2)),
}
"""Plain nets are dashed, residual nets solid, all others dashed and dotted, in every figure."""

KIND_MARKERS = {"plain": "s", "residual": "o", "looks-linear": "D", "other": "^"}
"""The marker of each kind, for figures of points."""

# Blue, vermilion, yellow and green of seaborn's colour-blind palette. Their lightness, which is equal there, is dark,
# middle and light here to differ in greyscale: first that of the kind's own colour, then 76, 46 and 22 (CIE L*).
_TONES = {
    "residual": ("#033c60", "#88c0fe", "#0d72b1", "#03375a"),
    "plain": ("#cb550b", "#fea58e", "#b74c09", "#5d2302"),
    "looks-linear": ("#ccba27", "#cfbd28", "#796e13", "#3b3505"),
    "other": ("#149f6f", "#1fd596", "#0e7c56", "#033d28"),
}

DOTTED: Any = (0, (1, 1.2))
"""The dash of theory, in any colour."""

_FONT_SIZE = 8

# Seaborn's style and context are stated and not asked for, since `import seaborn` loads scipy.stats, which takes longer
# than drawing a figure. A test compares them with seaborn's own.
TICKS: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "black",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.labelcolor": "black",
    "axes.spines.bottom": True,
    "axes.spines.left": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "grid.color": "0.9",
    "grid.linestyle": "-",
    "image.cmap": "viridis",
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "w",
    "patch.force_edgecolor": False,
    "text.color": "black",
    "xtick.bottom": True,
    "xtick.color": "black",
    "xtick.direction": "out",
    "xtick.top": False,
    "ytick.color": "black",
    "ytick.direction": "out",
    "ytick.left": True,
    "ytick.right": False,
}
"""Seaborn's style `ticks` without its dark grey, with a grid and the map of colours that matplotlib has."""

PAPER: dict[str, Any] = {
    "axes.labelsize": _FONT_SIZE,
    "axes.linewidth": 0.6,
    "axes.titlesize": 7.5,
    "font.size": _FONT_SIZE,
    "grid.linewidth": 0.5,
    "legend.fontsize": 6.5,
    "legend.title_fontsize": 6.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "patch.linewidth": 0.8,
    "xtick.labelsize": 7,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "xtick.minor.size": 1.5,
    "xtick.minor.width": 0.5,
    "ytick.labelsize": 7,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
    "ytick.minor.size": 1.5,
    "ytick.minor.width": 0.5,
}
"""The sizes of seaborn's context `paper`, scaled to the width of a column."""

_OTHER_SETTINGS: dict[str, Any] = {
    "axes.grid.axis": "y",
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "figure.figsize": (COLUMN_WIDTH, 2.4),
    "legend.columnspacing": 1.0,
    "legend.frameon": False,
    "legend.handlelength": 2.1,
    "legend.handletextpad": 0.6,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "savefig.dpi": 400,
    "svg.fonttype": "none",
    "svg.hashsalt": "gradlab",
}


def theme() -> AbstractContextManager[None]:
    """Return a context in which matplotlib draws as gradlab does: 85 mm wide, labels of 8 pt, TrueType fonts in PDFs.

    It is seaborn's style `ticks` and its context `paper`, scaled to the width of a column. Nine successive lines are
    distinguishable, also in greyscale. Make and save the figure inside the context.

        with gl.theme():
            fig, ax = plt.subplots()
            ax.plot(x, y)
            fig.savefig("mine.pdf")
    """
    cycle = cycler(linestyle=["-", KIND_DASHES["plain"], DOTTED]) * cycler(color=list(KIND_COLORS.values())[:3])
    settings: Any = {**TICKS, **PAPER, **_OTHER_SETTINGS, "axes.prop_cycle": cycle}
    return mpl.rc_context(settings)


def look(kind: str | None, unit: str | None = None) -> str:
    """Return the style of a network, a key of `KIND_COLORS`, from the kind and unit in its description."""
    if unit == "crelu":
        return "looks-linear"
    return kind if kind in ("plain", "residual") else "other"


def depth_colors(keys: list[Any]) -> dict[Any, Any]:
    """Return a colour for each key, from light to dark, distinguishable in greyscale and by colour-blind eyes."""
    if len(keys) == 1:
        return {keys[0]: KIND_COLORS["residual"]}
    palette = mpl.colormaps["viridis"]
    return {key: palette(0.8 - 0.75 * place / (len(keys) - 1)) for place, key in enumerate(keys)}


def shades(kind: str, count: int) -> list[str]:
    """Return several colours of one hue, from light to dark; a single colour is that of the kind.

    Args:
        kind: A key of `KIND_COLORS`.
        count: The number of colours; up to four differ in lightness by more than 15 (CIE L*).
    """
    own, *tones = _TONES[kind]
    if count == 1:
        return [own]
    blend = LinearSegmentedColormap.from_list("tones", tones)
    return [to_hex(blend(place)) for place in np.linspace(0, 1, count)]


def kind_colors(looks: Sequence[str]) -> list[str]:
    """Return a colour for each of several series by their styles; series of one style are shades of its hue."""
    tones = {name: shades(name, looks.count(name)) for name in dict.fromkeys(looks)}
    return [tones[name][looks[:place].count(name)] for place, name in enumerate(looks)]


KIND_COLORS = {name: own for name, (own, *_) in _TONES.items()}
"""The colours of kinds, for figures without colours by depth: dark, middle and light, to differ in greyscale."""
