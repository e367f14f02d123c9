"""What a shatter measurement shows, held against the laws of Balduzzi et al. 2017."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gradlab.results.finding import Finding

_SIDE_BY_SIDE = (
    "Balduzzi et al. 2017, §2 and Fig. 2: correlation falls with depth faster in feedforward than in residual nets. "
    "Told, without a verdict, at every depth at which ff and another family were measured; ± is a standard error over "
    "seeds."
)
_PATHS = (
    "Told, without a verdict, of the greatest depth. Counted are the paths active at two fixed inputs, a quarter of "
    "the line from either end, the backward weights averaged analytically as in the proofs of Balduzzi et al. 2017, "
    "Theorems 1 to 3; ± is the jackknife's standard error over seeds."
)
_UNNORMALIZED = (
    "The deepest of the feedforward nets without normalization. Balduzzi et al. 2017, Theorem 1, takes neurons to be "
    "active independently at two inputs; without normalization they are not."
)


def nearest_noise(acf: pd.DataFrame, noise: Mapping[str, Sequence[float]]) -> str:
    """Where an autocorrelation lies between brown and white noise, in words.

    The place is the least-squares weight of brown noise in a mixture of both expected autocorrelations, over
    lags 1 to 20.

    Args:
        acf: Rows of one network and depth: lag and acf.
        noise: Expected autocorrelations of `brown` and `white` noise from lag 0 on.
    """
    rows = acf[(acf["lag"] >= 1) & (acf["lag"] <= 20)]
    if rows.empty:
        return "–"
    if (acf["n_constant"] == acf["seeds"]).all():
        return "constant"
    lags = rows["lag"].to_numpy()
    brown, white = (np.asarray(noise[kind])[lags] for kind in ("brown", "white"))
    weight = float(np.dot(rows["acf"] - white, brown - white) / np.dot(brown - white, brown - white))
    places = ((0.1, "white"), (0.4, "nearer white"), (0.6, "between"), (0.9, "nearer brown"), (1.1, "brown"))
    return next((word for limit, word in places if weight < limit), "smoother than brown")


def claims(summary: pd.DataFrame) -> list[Finding]:
    """Sentences with numbers: who shatters, how fast, and what the law says.

    Args:
        summary: A shatter summary frame.
    """
    fits = summary[summary["statistic"].isin(("decay_exponent", "decay_log_factor"))]
    decays = [_decay(row, summary) for _, row in fits.iterrows()]
    return _residual_against_feedforward(summary) + _paths(summary) + decays + _unnormalized(summary)


def _residual_against_feedforward(summary: pd.DataFrame) -> list[Finding]:
    lag1 = summary[summary["statistic"] == "lag1"]
    findings = []
    for depth in sorted(set(lag1["depth"])):
        rows = lag1[lag1["depth"] == depth].set_index("network")
        if "ff" not in rows.index or len(rows) < 2:
            continue
        others = ", ".join(f"{network} {_value(row)}" for network, row in rows.iterrows() if network != "ff")
        sentence = (
            f"At depth {depth} gradients of neighbouring inputs have a lag-1 autocorrelation of "
            f"{_value(rows.loc['ff'])} in ff ({rows.loc['ff', 'norm']}); {others}."
        )
        findings.append(Finding(sentence, _SIDE_BY_SIDE))
    return findings


def _paths(summary: pd.DataFrame) -> list[Finding]:
    """The correlation by path counting, to as many digits as its error allows: it varies much from net to net."""
    rows = summary[(summary["statistic"] == "path_correlation") & (summary["depth"] == summary["depth"].max())]
    measured = [f"{_few_digits(row['value'], row['sem'])} in {row['network']}" for _, row in rows.iterrows()]
    if not measured:
        return []
    sentence = f"At depth {rows['depth'].iloc[0]}, counting co-active paths, gradients at a fixed pair correlate by "
    return [Finding(f"{sentence}{', '.join(measured)}.", _PATHS)]


def _decay(row: pd.Series, summary: pd.DataFrame) -> Finding:
    if row["statistic"] == "decay_exponent":
        form, theorem = "L^p", 3
    else:
        form, theorem = "r^L", 1 if str(row["network"]).startswith("ff") else 2
    rule = (
        f"Balduzzi et al. 2017, Theorem {theorem}: least squares of correlation ~ {form} over layers "
        f"{int(row['from_layer'])} to {row['depth']}, ± the jackknife's standard error over seeds, beside the same fit "
        "to the exact law of independent coin flips."
    )
    return Finding(_decay_sentence(row, summary), rule)


def _decay_sentence(row: pd.Series, summary: pd.DataFrame) -> str:
    """A fit beside the same fit to the law over the same layers, and what tells the net from the law's coins."""
    same = (summary["network"] == row["network"]) & (summary["depth"] == row["depth"])
    (coactive,) = summary.loc[same & (summary["statistic"] == "coactivation"), "value"]
    where = (
        f"{row['network']} ({row['norm']}): over layers {int(row['from_layer'])} to {row['depth']}, counting co-active "
        "paths, gradient correlation falls"
    )
    coins = f"neurons are active at {coactive:.3f} of pairs, coins at 0.250"
    if row["statistic"] == "decay_log_factor":
        value, theory = math.exp(row["value"]), math.exp(row["theory"])
        error = value * row["sem"]
        return f"{where} by a factor {_plus_minus(value, error)} a layer; coin flips give {theory:.3f} ({coins})."
    measured = f"{where} as L^p with p = {_plus_minus(row['value'], row['sem'])}; the exact law of coin flips"
    if row["norm"] == "bn":
        return (
            f"{measured} for batch normalization has p = {row['theory']:.3f} over the same layers ({coins}), and "
            "-0.734 at great depth, since it centres: the usual -1/2 is for normalization without centring."
        )
    return (
        f"{measured} without centring has p = {row['theory']:.3f} over the same layers, and -1/2 at great depth, but "
        f"uncentred inputs grow alike with depth, and so do the neurons active at them ({coins})."
    )


def _unnormalized(summary: pd.DataFrame) -> list[Finding]:
    rows = summary[(summary["statistic"] == "lag1") & (summary["norm"] == "none")]
    findings = []
    for network, part in rows[rows["network"].str.startswith("ff")].groupby("network", sort=False):
        deepest = part.loc[part["depth"].idxmax()]
        reason = (
            "without bias and norm it is a single step at 0, at any depth"
            if "bias=0" in str(network)
            else "a feedforward net without normalization does not shatter as one with it does"
        )
        sentence = f"{network}: lag-1 autocorrelation is still {_value(deepest)} at depth {deepest['depth']}: {reason}."
        findings.append(Finding(sentence, _UNNORMALIZED))
    return findings


def _value(row: pd.Series) -> str:
    return _plus_minus(row["value"], row["sem"])


def _few_digits(value: float, error: float) -> str:
    return f"{value:.3g} ± {error:.2g}" if error > 0 else f"{value:.3g}"


def _plus_minus(value: float, error: float) -> str:
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.3f}"
