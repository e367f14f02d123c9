"""What the singular values of a Jacobian show: whether gradients keep their size, and all directions theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.jacobian.summary import mean_squares

SOURCE = "Pennington et al. 2017 (1711.04735): the mean squared singular value is χ^L, in the limit of infinite width."


def findings(frame: pd.DataFrame, facts: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return sentences with numbers on each network.

    Args:
        frame: Of singular values.
        facts: What the record says of each network.
    """
    found = []
    for fact in facts:
        rows = frame[frame["network"] == fact["network"]]
        mean, error = mean_squares(rows)
        known = f" ± {error:.2g}" if error == error else ""
        sentence = f"{fact['network']}: the mean squared singular value of the Jacobian is {mean:.3g}{known}"
        law = fact.get("law")
        if law is not None:
            sentence += f"; theory for infinite width says {law['mean_square']:.3g}"
            if error == error and error > 0:
                sentence += f", {abs(mean - law['mean_square']) / error:.1f} standard errors from it"
        found.append(Finding(sentence + ".", SOURCE))
        near = rows["singular_value"].between(0.5, 2)
        share = rows.loc[near, "weight"].sum() / rows["weight"].sum()
        sentence = (
            f"{fact['network']}: {share:.0%} of the singular values lie between 1/2 and 2, and the largest is "
            f"{rows['singular_value'].max():.3g}."
        )
        found.append(
            Finding(sentence, "Dynamical isometry is all of them near 1 (Pennington et al. 2017, 1711.04735).")
        )
    return found
