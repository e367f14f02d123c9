"""Findings on the signal in blocks: growth of the stream, ratios of branches, gradients, agreement with theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.signal.outputs import gradient_ratios, mean_variances, off_theory, outputs

STEADY = 1.5
"""The ratio of largest to smallest variance below which the stream is said to be steady."""

BRANCH_SHARE = "De and Smith 2020 (2002.10444), §3: the branch's variance over that of the stream it is added to."


def findings(frame: pd.DataFrame, facts: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return sentences with numbers on each network.

    Args:
        frame: A signal frame.
        facts: The facts on each network in the record.
    """
    found = []
    for fact in facts:
        rows = frame[frame["network"] == fact["network"]]
        blocks = outputs(rows)
        variances = mean_variances(blocks)
        # Parts side by side are no stream.
        if len(variances) < 2 or fact.get("chain") is False:
            continue
        name = f"{fact['network']}{_of_one_seed(fact, rows)}"
        found.append(_stream(name, variances))
        found += _branches(name, rows)
        found += _gradients(name, blocks)
        found += _theory(name, off_theory(blocks).dropna())
    return found


def _of_one_seed(fact: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """A remark if the network is random, so that another seed would have other values."""
    several = "seed" in rows and rows["seed"].nunique() > 1
    return " (of one seed)" if fact.get("trained") is False and not several else ""


def _stream(network: str, variance: pd.Series[float]) -> Finding:
    without = variance.index[~np.isfinite(variance)]
    if len(without):
        return Finding(
            f"{network}: the stream has no variance in {len(without)} of {len(variance)} blocks, first in block "
            f"{without[0]}: no value there is finite.",
            "Variance of each block's output over the channels, positions and examples whose values are finite.",
        )
    first, last, blocks = float(variance.iloc[0]), float(variance.iloc[-1]), len(variance)
    low, high = float(variance.min()), float(variance.max())
    if high < STEADY * low or low == high:
        where = f"between {low:.3g} and {high:.3g}" if f"{low:.3g}" != f"{high:.3g}" else f"at {low:.3g}"
        sentence = f"{network}: the variance of the stream stays {where} over {blocks} blocks."
    else:
        sentence = f"{network}: the variance of the stream goes from {first:.3g} to {last:.3g} over {blocks} blocks"
        place = variance.idxmax()
        sentence += "." if place in variance.index[[0, -1]] else f"; it is largest, {high:.3g}, at block {place}."
    rule = (
        f"Variance of each block's output over channels, positions and examples; least {low:.4g}, largest {high:.4g}. "
        f"It stays where the largest is below {STEADY} times the least."
    )
    return Finding(sentence, rule)


def _branches(network: str, rows: pd.DataFrame) -> list[Finding]:
    """The variance of each kind of branch relative to the stream."""
    known = rows[rows["ratio"].notna()]
    found = []
    for branch, part in known.groupby("branch", sort=False):
        ratios = part.groupby("index")["ratio"].mean()
        if len(ratios) < 2:
            continue
        what = f"the {branch} branch" if branch else "a branch"
        sentence = (
            f"{network}: {what} has {ratios.median():.2g} of the stream's variance in the median block, "
            f"{ratios.iloc[0]:.2g} in the first and {ratios.iloc[-1]:.2g} in the last."
        )
        rule = f"{BRANCH_SHARE} Mean cosine of branch and stream {part['cosine'].mean():+.3f}."
        found.append(Finding(sentence, rule))
    return found


def _gradients(network: str, blocks: pd.DataFrame) -> list[Finding]:
    ratios, rms = gradient_ratios(blocks), blocks.groupby("index")["stream_grad_rms"].mean()
    if not ((ratios > 0) & np.isfinite(ratios)).all():
        return []
    # The geometric mean over seeds, as in the table.
    ratio = float(np.exp(np.log(ratios).mean()))
    factor = f"{ratio ** (1 / (len(rms) - 1)):.3g}"
    # A factor that is rounded to 1 would deny the ratio before it.
    each = "." if factor == "1" else f", a factor of {factor} per block."
    sentence = (
        f"{network}: the gradient on the stream is {ratio:.3g} times as large at the first block as at the last{each}"
    )
    ends = f"{rms.iloc[0]:.4g} and {rms.iloc[-1]:.4g}"
    over = f", means over {len(ratios)} seeds; of their ratios the geometric mean" if len(ratios) > 1 else ""
    return [Finding(sentence, f"RMS of the loss's gradient with respect to blocks' outputs: {ends}{over}.")]


def _theory(network: str, off: pd.Series[float]) -> list[Finding]:
    if off.empty:
        return []
    sentence = (
        f"{network}: the stream's variance differs from the theory of infinite width by {off.mean():.1%} on average "
        f"and {off.max():.1%} at most."
    )
    rule = f"|measured / predicted − 1| over {len(off)} blocks; the largest at block {off.idxmax()}."
    return [Finding(sentence, rule)]
