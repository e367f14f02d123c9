"""The noise scale of gradients, if it is resolved, and the two quantities of which it is the ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.intervals import INTERVALS
from gradlab.stats.ratio import UNRESOLVED, Ratio, gradient_of_one_set, ratio
from gradlab.stats.verdict import FALSE_ALARMS, Estimate

_SEVERAL = (
    "McCandlish et al. 2018, arXiv:1812.06162, Eq. 2.9 and App. A.1: the mean of tr Σ over that of |G|², over seeds, "
    "with Fieller's interval; unresolved if |G|² is not significantly different from 0 (Student's t, falsely in at "
    f"most {FALSE_ALARMS:.0%} of cases). {INTERVALS}"
)
_ONE = (
    "McCandlish et al. 2018, arXiv:1812.06162, Eq. 2.9: for one set of examples there is no interval; unresolved if "
    "|G|² is not significantly different from 0, by Cantelli's inequality for the variance of its estimate, falsely in "
    f"at most {FALSE_ALARMS:.0%} of cases."
)


def last_step(totals: pd.DataFrame) -> pd.DataFrame:
    """One row per seed, of the last measured step."""
    return totals[totals["step"] == totals["step"].max()]


def noise_scale(totals: pd.DataFrame) -> Ratio:
    """The ratio tr Σ / |G|² of one network, with an interval if there are several seeds.

    Args:
        totals: The rows of all parameters, one per seed, with variance, gradient_square and examples.
    """
    if not {"variance", "gradient_square"} <= set(totals) or not len(totals):
        return UNRESOLVED
    above, below = (totals[name].astype(float).to_numpy() for name in ("variance", "gradient_square"))
    if len(totals) > 1:
        return ratio(above, below)
    examples = totals["examples"].fillna(0).iloc[0]
    if not gradient_of_one_set(above[0], below[0], int(examples)).speaks:
        return UNRESOLVED
    return Ratio(above[0] / below[0], math.nan, math.nan, True)


def noise_findings(totals: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """One sentence for each network whose single examples were measured.

    Args:
        totals: The rows for `noise_scale`, by network.
    """
    return [
        Finding(_sentence(network, rows), _SEVERAL if len(rows) > 1 else _ONE)
        for network, rows in totals.items()
        if {"variance", "gradient_square"} <= set(rows) and len(rows) and rows["variance"].notna().any()
    ]


def _sentence(network: str, rows: pd.DataFrame) -> str:
    scale = noise_scale(rows)
    parts = [_number(Estimate.of(rows[name].astype(float))) for name in ("variance", "gradient_square")]
    start = f"{network}: over all parameters tr Σ = {parts[0]} and |G|² = {parts[1]}; the noise scale, their ratio, is "
    if not np.isfinite(rows[["variance", "gradient_square"]].astype(float)).all(axis=None):
        return f"{network}: the gradients of single images are not all finite: their noise scale is unresolved."
    cosine = _mean_cosine(rows)
    if not scale.resolved:
        return f"{start}unresolved, since |G|² is not significantly different from 0{cosine}."
    if math.isnan(scale.low):
        return f"{start}{scale.value:.4g}, of one set of images and without an interval{cosine}."
    return f"{start}{scale.value:.4g} ({scale.low:.4g} to {scale.high:.4g}){cosine}."


def _mean_cosine(rows: pd.DataFrame) -> str:
    if "mean_cosine" not in rows or not np.isfinite(rows["mean_cosine"].astype(float)).all():
        return ""
    return (
        f"; the gradients of two images have a mean cosine of {_number(Estimate.of(rows['mean_cosine'].astype(float)))}"
    )


def _number(estimate: Estimate) -> str:
    low, high = estimate.interval()
    return f"{estimate.value:.4g}" if math.isnan(low) else f"{estimate.value:.4g} ({low:.4g} to {high:.4g})"
