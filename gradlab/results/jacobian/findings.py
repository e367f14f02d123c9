"""Findings on the singular values of a Jacobian: the mean square beside theory, and the spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.jacobian.summary import mean_squares

SOURCE = "Pennington et al. 2017 (1711.04735): the mean squared singular value is χ^L."


def findings(frame: pd.DataFrame, facts: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return sentences with numbers on each network.

    Args:
        frame: A jacobian frame.
        facts: The facts on each network in the record.
    """
    found = []
    for fact in facts:
        rows = frame[frame["network"] == fact["network"]]
        mean, error = mean_squares(rows)
        known = f" ± {error:.2g}" if error == error else ""
        sentence = f"{fact['network']}: the mean squared singular value of the Jacobian is {mean:.3g}{known}"
        law = fact.get("law")
        if law is not None:
            sentence += f"; theory predicts {law['mean_square']:.3g}"
            if error == error and error > 0:
                sentence += f", {abs(mean - law['mean_square']) / error:.1f} standard errors from it"
        found.append(Finding(sentence + ".", f"{SOURCE}{_scatter(law)}"))
        near = rows["singular_value"].between(0.5, 2)
        share = rows.loc[near, "weight"].sum() / rows["weight"].sum()
        sentence = (
            f"{fact['network']}: {share:.0%} of the singular values lie between 1/2 and 2, and the largest is "
            f"{rows['singular_value'].max():.3g}."
        )
        found.append(Finding(sentence, "Dynamical isometry: all are near 1 (Pennington et al. 2017, 1711.04735)."))
    return found


def _scatter(law: Mapping[str, Any] | None) -> str:
    """A remark on the scatter at finite width, if it is known."""
    if law is None or "deviation" not in law:
        return ""
    return f" Random weights of this width scatter about it with a standard deviation of {law['deviation']:.2g}."
