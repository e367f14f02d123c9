"""All recipes, and how to find them by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from gradlab.errors import UsageError
from gradlab.gallery import balduzzi2017, he2015, he2016, mean_field
from gradlab.gallery.recipe import Recipe

RECIPES = (*he2015.RECIPES, *he2016.RECIPES, *balduzzi2017.RECIPES, *mean_field.RECIPES)
"""Every recipe, in the order of the gallery."""


def find_recipes(names: Iterable[str]) -> list[Recipe]:
    """The recipes of these names, each once.

    Raises:
        UsageError: For a name that there is not; it names the nearest.
    """
    known = {recipe.name: recipe for recipe in RECIPES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else "`gradlab figures --list` lists them"
            raise UsageError(f"there is no figure {name!r}; {hint}")
    return [known[name] for name in dict.fromkeys(names)]
