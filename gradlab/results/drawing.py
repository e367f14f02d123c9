"""Figures as bytes: in the theme, and with equal bytes for equal figures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_FORMATS = ("png", "pdf", "svg")

_UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def drawn(
    figures: Mapping[str, Callable[[], Figure]], formats: Sequence[str], dpi: int | None = None
) -> dict[str, bytes]:
    """Draw figures in gradlab's theme, independently of the user's settings of matplotlib.

    Args:
        figures: A function for each figure, by file name without suffix. They are called within the theme, one after
            another, so that only one figure is in memory.
        formats: The file formats, among `png`, `pdf` and `svg`.
        dpi: The resolution of PNGs; None takes that of the theme.

    Returns:
        The bytes of the figures by file name, without dates, so that equal figures have equal bytes.
    """
    import matplotlib as mpl

    from gradlab.plots.style import theme

    with mpl.rc_context(), warnings.catch_warnings():
        # A name may have characters that no font here has; each is drawn as a box.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ ")
        # A matplotlibrc may set TeX, fonts or sizes that the theme does not override.
        mpl.rcdefaults()
        with theme():
            return _drawn(figures, formats, dpi)


def _drawn(figures: Mapping[str, Callable[[], Figure]], formats: Sequence[str], dpi: int | None) -> dict[str, bytes]:
    contents = {}
    for name, make in figures.items():
        figure = make()
        _take_literally(figure)
        for kind in formats:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=dpi, metadata=_UNDATED.get(kind))
            contents[f"{name}.{kind}"] = buffer.getvalue()
            # Everything has its place now: other formats need not be drawn once in vain to find it.
            figure.set_layout_engine("none")
    return contents


def _take_literally(figure: Figure) -> None:
    """Draw names literally, without formulas between dollar signs; numbers at the axes keep their powers."""
    from matplotlib.axis import Axis
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter, ScalarFormatter

    numbers: set[int] = set()
    artists = figure.findobj()
    for axis in artists:
        if isinstance(axis, Axis) and isinstance(axis.get_major_formatter(), LogFormatter | ScalarFormatter):
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            numbers |= {id(label) for tick in ticks for label in (tick.label1, tick.label2)}
    for text in artists:
        if isinstance(text, Text) and id(text) not in numbers:
            text.set_parse_math(False)
