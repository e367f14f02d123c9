"""Exponents of a coordinate check, layer by layer, compared with those of a parametrization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gradlab.stats.scaling_exponent import beyond, exponent
from gradlab.stats.verdict import NOTHING, Comparison, Verdict, holm
from gradlab.theory.width_exponents import (
    SMALLEST_GAP,
    Range,
    depth_exponents,
    maximal_update_exponents,
    standard_exponents,
)

MARGIN = SMALLEST_GAP / 2
"""The tolerance of exponents, whose theory is for infinite width: half of the smallest difference in theory."""

QUANTITIES = {"size": "rms", "branch": "branch", "change": "change", "update": "update"}
"""The fitted quantities and their columns: the first two at initialization, the others after the last step."""

VERDICTS = {
    Verdict.LARGER: "too large",
    Verdict.SMALLER: "too small",
}
AS_EXPECTED, NOT_TOLD = "as expected", "not told"
NOT_FINITE, NO_CHANGE, NO_EXPECTATION = "not finite", "no change", "not known"
WRONG = {"too large", "too small", NOT_FINITE, NO_CHANGE}
"""The verdicts of unexpected scaling."""


def slopes(frame: pd.DataFrame, options: Mapping[str, Any]) -> pd.DataFrame:
    """One row per axis, layer and quantity: the exponent, its standard error, the expected range and the verdict.

    The exponent is fitted over the networks of all widths, or of all depths. It is too large or too small if it differs
    significantly by Student's t from the expected range, widened by a quarter on both sides; all verdicts of a check
    share one rate of false alarms (Holm 1979). It is as expected if its 95 % interval lies within the widened range;
    otherwise there is no verdict.

    Args:
        frame: The frame of a `CoordinatesResult`.
        options: The options `parametrization`, `optimizer` (`sgd` or `adam`) and `branch`.
    """
    rows: list[dict[str, Any]] = []
    comparisons: list[Comparison] = []
    for (axis, layer), of_layer in frame.groupby(["axis", "layer"], sort=False):
        kind = of_layer["kind"].iloc[0]
        ranges = expected_ranges(str(axis), str(layer), kind, options)
        for quantity in QUANTITIES:
            if of_layer.loc[of_layer["step"] == 0, QUANTITIES[quantity]].isna().all():
                continue
            row, comparison = _held(_values(of_layer, quantity), quantity, ranges.get(quantity))
            rows.append({"axis": axis, "layer": layer, "kind": kind, "quantity": quantity, **row})
            comparisons.append(comparison)
    for row, verdict in zip(rows, holm(comparisons), strict=True):
        row["verdict"] = VERDICTS[verdict] if verdict.speaks else row["verdict"]
    return pd.DataFrame(rows)


def expected_ranges(axis: str, layer: str, kind: str, options: Mapping[str, Any]) -> dict[str, Range]:
    """The expected exponents by quantity, for quantities with a theory."""
    if axis == "depth":
        return depth_exponents("[" in layer, options["branch"])
    if options["parametrization"] == "mup":
        return maximal_update_exponents(kind)
    return standard_exponents(kind, options["optimizer"])


def wrong_layers(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The axes and layers of unexpected exponents, in order of execution."""
    wrong = table[table["verdict"].isin(WRONG)]
    return list(dict.fromkeys(zip(wrong["axis"], wrong["layer"], strict=True)))


def _values(of_layer: pd.DataFrame, quantity: str) -> pd.Series:
    """The values of one layer, one per network, by width or depth."""
    step = 0 if quantity in ("size", "branch") else of_layer["step"].max()
    return of_layer[of_layer["step"] == step].set_index("value")[QUANTITIES[quantity]]


def _held(values: pd.Series, quantity: str, expected: Range | None) -> tuple[dict[str, Any], Comparison]:
    """The exponent of a layer's values, with its verdict if it is not unexpected."""
    estimate = exponent(values.index, values)
    flaw = _flaw(values.to_numpy(), quantity)
    low, high = expected or (np.nan, np.nan)
    fit = {"exponent": estimate.value, "error": estimate.error, "low": low, "high": high}
    if flaw is not None or expected is None:
        return {**fit, "verdict": flaw or NO_EXPECTATION}, NOTHING
    least, most = estimate.interval()
    inside = low - MARGIN <= least and most <= high + MARGIN
    return {**fit, "verdict": AS_EXPECTED if inside else NOT_TOLD}, beyond(estimate, low, high, MARGIN)


def _flaw(values: Any, quantity: str) -> str | None:
    """The reason why no exponent can be fitted; a response that is 0 at initialization is not a fault."""
    if not np.isfinite(values).all():
        return NOT_FINITE
    return NO_CHANGE if quantity in ("change", "update") and not values.any() else None
