"""The noise scale of a training, from the records of its gradient's variance and square."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from gradlab.errors import UsageError
from gradlab.results.dynamics.tables import total_series
from gradlab.results.finding import Finding
from gradlab.stats.ratio import Ratio, ratio

_RULE = (
    "B_simple of McCandlish et al. 2018 (arXiv:1812.06162), Eq. 2.9: the means over records of tr(Σ) and |G|², one "
    "over the other, with Fieller's interval. It is not resolved where Student's t does not tell |G|² from 0."
)


def noise_scale(rows: pd.DataFrame, examples: int = 1) -> Ratio:
    """Return the noise scale over all records, with its 95 % interval.

    Args:
        rows: The dynamics of one network.
        examples: The examples of the smaller batch, in which the scale is counted otherwise.

    Raises:
        UsageError: If noise was not recorded.
    """
    steps, variance = total_series(rows, "gradient_variance")
    others, square = total_series(rows, "gradient_square")
    if not steps or steps != others:
        raise UsageError(
            'noise was not recorded: it needs measure=[…, "noise"], and steps of two or more micro-batches each, or '
            "watch.log(part=…, share=…)"
        )
    found = ratio(variance, square)
    return Ratio(examples * found.value, examples * found.low, examples * found.high, found.resolved)


def noise_findings(frame: pd.DataFrame) -> Iterator[Finding]:
    """State the noise scale of every network that it was recorded of.

    Args:
        frame: Dynamics of any number of networks.
    """
    recorded = frame[frame["statistic"] == "gradient_variance"]
    for network in recorded["network"].unique():
        rows = frame[frame["network"] == network]
        found, records = noise_scale(rows), (recorded["network"] == network).sum()
        if found.resolved:
            told = f"is {found.value:.3g} of the smaller batches (95 % interval {found.low:.3g} to {found.high:.3g})"
        else:
            told = "is unresolved, since the square of the gradient does not differ significantly from 0"
        yield Finding(f"{network}: the noise scale {told}, over {records:,} records.", _RULE)
