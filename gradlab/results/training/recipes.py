"""The recipes of runs, by which runs are compared."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

_SETTINGS = (
    "schedule",
    "warm_up_rate",
    "warm_up_depth",
    "momentum",
    "nesterov",
    "beta1",
    "beta2",
    "weight_decay",
    "decayed",
    "label_smoothing",
    "padding",
    "flip",
    "normalization",
    "validation",
)
"""The fields of a recipe that its text does not name."""

_OF_OLDER_RUNS = {"beta1": 0.9, "beta2": 0.999, "decayed": "all"}
"""Those that older runs did not record, as they had no other."""


def recipe_of(facts: Mapping[str, Any]) -> str:
    """The recipe of a run without its seed, in which runs of one recipe may differ.

    Args:
        facts: The facts on the run's network in the record.
    """
    return _in_the_singular(str(facts.get("recipe"))).removesuffix(f", seed {facts.get('seed')}")


def without_seed(recipe: str | None) -> str | None:
    """The recipe that a checkpoint of `gradlab train` names, without its seed; any other as it is."""
    return None if recipe is None else re.sub(r"^(gradlab .*), seed \d+$", r"\1", _in_the_singular(recipe))


def _in_the_singular(recipe: str) -> str:
    """The text of a recipe of one epoch, iteration or step of warm-up, of which older runs have the plural."""
    return re.sub(r" 1 (epoch|iteration|step)s\b", r" 1 \1", recipe)


def recipe_key(facts: Mapping[str, Any]) -> Hashable:
    """A key that is equal for runs by one recipe, of any seed, also in what the recipe's text does not name.

    Args:
        facts: The facts on the run's network in the record.
    """
    return recipe_of(facts), repr(sorted((facts.get("settings") or {}).items()))


def settings_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recorded recipe that its text does not name."""
    fields = {**_OF_OLDER_RUNS, **recipe}
    return {name: fields[name] for name in _SETTINGS if name in fields}
