"""Figures as bytes: in the theme, and the same bytes for the same figure."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_FORMATS = ("png", "pdf", "svg")

_UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def drawn(
    figures: Mapping[str, Callable[[], Figure]], formats: Sequence[str], dpi: int | None = None
) -> dict[str, bytes]:
    """Draw figures in gradlab's theme.

    Args:
        figures: What makes each, by file name without suffix; called within the theme, one after another, so that
            no more than one is in memory.
        formats: Of `png`, `pdf` and `svg`.
        dpi: Of PNGs; None takes the theme's.

    Returns:
        Their bytes by file name; no date is inside, so the same figures give the same bytes.
    """
    from gradlab.plots import theme

    contents = {}
    with theme():
        for name, make in figures.items():
            figure = make()
            for kind in formats:
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, dpi=dpi, metadata=_UNDATED.get(kind))
                contents[f"{name}.{kind}"] = buffer.getvalue()
    return contents
