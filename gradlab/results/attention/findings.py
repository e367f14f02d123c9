"""Findings on attention: its entropy, the heads that attend to single tokens, and the largest logits."""

from __future__ import annotations

import pandas as pd

from gradlab.results.finding import Finding

SHARP = 0.1
"""The relative entropy below which a head is said to look at single tokens."""

EVEN = 0.95
"""The relative entropy above which a head is said to average over the tokens that it sees."""


def _looking(sharp: int, even: int, heads: int) -> str:
    """How many heads look at single tokens, and how many average over them."""
    if heads == 1:
        neither = "neither looks at single tokens nor averages"
        return f"its one head {'looks at single tokens' if sharp else 'averages' if even else neither}"
    return f"{sharp} of {heads} heads look at single tokens and {even} average"


def findings(frame: pd.DataFrame) -> list[Finding]:
    """Return sentences with numbers on each network.

    Args:
        frame: An attention frame.
    """
    found = []
    for network, rows in frame.groupby("network", sort=False):
        known = rows[rows["relative_entropy"].notna()]
        if known.empty:
            continue
        sharp, even = (known["relative_entropy"] < SHARP).sum(), (known["relative_entropy"] > EVEN).sum()
        means = known.groupby("index")["relative_entropy"].mean()
        sentence = (
            f"{network}: attention has {means.iloc[0]:.0%} of the entropy of equal weights in the first layer and "
            f"{means.iloc[-1]:.0%} in the last; {_looking(sharp, even, len(known))}."
        )
        rule = f"Relative entropy, mean over heads; single tokens below {SHARP}, an average above {EVEN}."
        found.append(Finding(sentence, rule))
        if rows["largest_logit"].isna().all():
            continue
        where = rows.loc[rows["largest_logit"].idxmax()]
        largest, head = f"{where['largest_logit']:.3g}", f"head {where['head']} of {where['layer']}"
        sentence = f"{network}: the largest logit is {largest}, in {head}."
        found.append(Finding(sentence, "Largest product of query and key after scale and mask, of the rows taken."))
    return found
