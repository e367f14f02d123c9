"""The rows that a sink receives, and the names of their values in dashboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A row of dynamics: step, layer, index, block, statistic and value."""

COLUMNS = ("step", "layer", "index", "block", "statistic", "value")
PREFIX = "gradlab/"


def scalar_name(row: Row) -> str:
    """Return the name of a value in a dashboard: `gradlab/STATISTIC/LAYER`."""
    return f"{PREFIX}{row['statistic']}/{row['layer']}"


def scalars_by_step(rows: Sequence[Row]) -> dict[int, dict[str, float]]:
    """Return the values of rows by their names, for each step."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row["step"], {})[scalar_name(row)] = row["value"]
    return found
