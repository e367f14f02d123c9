"""All figures, and a search by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from gradlab.errors import UsageError
from gradlab.gallery import balduzzi2017, he2015, he2016, mean_field, transformers, veit2016
from gradlab.gallery.figure import Figure

FIGURES = (
    *he2015.FIGURES,
    *he2016.FIGURES,
    *balduzzi2017.FIGURES,
    *mean_field.FIGURES,
    *veit2016.FIGURES,
    *transformers.FIGURES,
)
"""Every figure, in the order of the gallery."""


def find_figures(names: Iterable[str]) -> list[Figure]:
    """The figures of these names, without repetitions.

    Raises:
        UsageError: If there is no figure of a name; the error suggests the nearest name.
    """
    known = {figure.name: figure for figure in FIGURES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else "`gradlab figures --list` lists them"
            raise UsageError(f"there is no figure {name!r}; {hint}")
    return [known[name] for name in dict.fromkeys(names)]
