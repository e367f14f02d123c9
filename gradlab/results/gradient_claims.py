"""What the literature claims on gradients across depth at initialization, held against a measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from gradlab.results.finding import Finding

WITHIN = 3.0
"""Standard errors within which a measurement is said to agree with theory."""


@dataclass(frozen=True)
class Claim:
    """A claim of the literature.

    Attributes:
        key: Its name in tables.
        words: What it says, as part of a sentence.
        source: Where.
    """

    key: str
    words: str
    source: str


CLAIMS = {
    "he": Claim("he", "He initialization without normalization keeps it constant", "He et al. 2015, arXiv:1502.01852"),
    "batch norm": Claim(
        "batch norm",
        "batch normalization without shortcuts makes it explode, by π/(π − 1) = 1.467 a layer",
        "Yang et al. 2019, arXiv:1902.08129",
    ),
    "residual": Claim(
        "residual",
        "shortcuts let it grow as a power of depth only",
        "De and Smith 2020, arXiv:2002.10444",
    ),
}
"""The claims by their key."""


def claims(summary: pd.DataFrame) -> list[Finding]:
    """Plain against residual nets at every depth, and each network against the claim on it.

    Args:
        summary: A gradients summary.
    """
    rows = summary.to_dict("records")
    return _plain_against_residual(rows) + _against_theory(rows)


def _plain_against_residual(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    sentences = []
    for plain in rows:
        for residual in rows:
            if not _counterparts(plain, residual):
                continue
            sentence = (
                f"At {plain['depth']} layers ({plain['weights']}) the plain net's gradient is {_ratio(plain)} times as "
                f"large at its first layer as at its last, that of the residual net ({residual['network']}) "
                f"{_ratio(residual)} times."
            )
            rule = "A plain and a residual net of one depth, both as initialized or both trained, measured alike."
            sentences.append(Finding(sentence, rule))
    return sentences


def _counterparts(plain: dict[str, Any], residual: dict[str, Any]) -> bool:
    """Whether two networks are a plain net and its residual one, measured alike."""
    names = str(plain["network"]), str(residual["network"])
    alike = all(plain[key] == residual[key] for key in ("depth", "BN"))
    initial = [str(row["weights"]).startswith("init") for row in (plain, residual)]
    known = not any(math.isnan(row["first / last"]) for row in (plain, residual))
    return alike and known and initial[0] == initial[1] and "plain" in names[0] and "resnet" in names[1]


def _against_theory(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    """A sentence a claim, with every network that it is on."""
    known = [row for row in rows if row["claim"] in CLAIMS and not math.isnan(row["growth a layer"])]
    known.sort(key=lambda row: list(CLAIMS).index(row["claim"]))
    sentences = []
    for key, group in groupby(known, key=lambda row: str(row["claim"])):
        claim = CLAIMS[key]
        measured = "; ".join(_measured(row) for row in group)
        sentence = (
            f"{claim.words[0].upper()}{claim.words[1:]} ({claim.source}). The gradient's second moment grows a layer "
            f"towards the input by: {measured}. Theory is of infinite width, away from the loss."
        )
        rule = f"{claim.source}, of networks as initialized; a measurement agrees within {WITHIN:g} standard errors."
        sentences.append(Finding(sentence, rule))
    return sentences


def _measured(row: dict[str, Any]) -> str:
    value, error, theory = row["growth a layer"], row["±"], row["theory"]
    off = value - theory
    text = f"{row['network']} {value:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")
    if math.isnan(error):
        return f"{text}, in theory {theory:.3f}"
    verdict = "agrees" if abs(off) <= WITHIN * error else f"{abs(off) / error:.0f} standard errors off"
    return f"{text}, in theory {theory:.3f} ({verdict})"


def _ratio(row: dict[str, Any]) -> str:
    error = row["×/÷"]
    return f"{row['first / last']:.3g}" + ("" if math.isnan(error) else f" (×/÷ {error:.2f})")
