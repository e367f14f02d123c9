"""The findings on gradient norms and noise scales, regime by regime."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from regimes import Regime, Sentences, check

from gradlab.results.gradients.findings import findings
from gradlab.results.gradients.noise import noise_findings
from gradlab.results.gradients.summary import summary_row
from gradlab.results.label import with_descriptions
from gradlab.stats.verdict import Estimate


def net(network: str, ratio: float, growth: float = 1.3, error: float = 0.01, seeds: int = 5, **more: Any) -> Any:
    factor = math.nan if seeds == 1 else 1 + error
    row = {"network": network, "weights": "init", "BN": "batch", "depth": 20, "first / last": ratio, "×/÷": factor}
    row |= {"growth a layer": growth, "±": error, "theory": 1.41, "claim": "batch norm", "seeds": seeds}
    return row | more


def gradients(*rows: dict[str, Any], **facts: Any) -> Sentences:
    known = [facts | {"network": row["network"]} for row in rows]
    return findings(pd.DataFrame(rows), with_descriptions(known))


def paired(plain: list[float], residual: list[float], first: int = 0) -> Sentences:
    """A result with the given logarithms of ratios by seed; the residual net's seeds begin at `first`."""
    rows, ratios = [], []
    for name, logs, start in (("plain20", plain, 0), ("resnet20", residual, first)):
        estimate = Estimate.of(logs)
        rows.append(net(name, math.exp(estimate.value), claim=None, seeds=len(logs)))
        rows[-1]["×/÷"] = math.exp(estimate.error)
        ratios.append(dict(enumerate(logs, start)))
    return findings(pd.DataFrame(rows), with_descriptions({"network": row["network"]} for row in rows), ratios)


def noise(
    variance: list[float], square: list[float], examples: int = 128, cosine: list[float] | None = None
) -> Sentences:
    rows = pd.DataFrame({"variance": variance, "gradient_square": square, "examples": examples})
    if cosine is not None:
        rows["mean_cosine"] = cosine
    return noise_findings({"net": rows})


PAIR = (net("plain20", 10.0), net("resnet20", 1.0, claim=None))
TRAINED = tuple({**row, "weights": "trained", "claim": None} for row in PAIR)
REGIMES: dict[str, Regime] = {
    "plain against residual": (lambda: gradients(*PAIR), ["which is smaller", "less than in theory, 1.410"], []),
    "one seed of each": (
        lambda: gradients(net("plain20", 10.0, seeds=1), net("resnet20", 1.0, seeds=1)),
        ["too few seeds for a conclusion", "too few seeds to compare with theory"],
        ["smaller", "agrees", "nan"],
    ),
    "two seeds beside theory": (
        lambda: gradients(net("plain20", 10.0, 0.963, 0.169, seeds=2)),
        ["not significantly different from theory"],
        ["agrees", "less than"],
    ),
    "far from theory": (
        lambda: gradients(net("plain56", 10.0, 1.265, 0.001)),
        ["less than in theory"],
        ["makes it explode", "errors off"],
    ),
    "equal ratios": (
        lambda: gradients(net("plain20", 2.0), net("resnet20", 2.0)),
        ["not significantly different"],
        ["which is"],
    ),
    "no growth": (lambda: gradients(net("plain8", 2.0, math.nan, math.nan)), [], ["nan", "theory"]),
    "trained by one recipe": (lambda: gradients(*TRAINED, recipe="r"), ["which is smaller"], []),
    "trained by unknown recipes": (
        lambda: gradients(*TRAINED, recipe=None),
        ["The weights of plain20 and resnet20 have unknown recipes"],
        ["At 20 layers"],
    ),
    "trained, near chance": (
        lambda: gradients(*TRAINED, recipe="r", near_chance=True),
        ["plain20 and resnet20 are near chance"],
        ["At 20 layers"],
    ),
    "trained against initial": (
        lambda: gradients(TRAINED[0], PAIR[1], recipe="r"),
        ["with and without training are not compared: plain20; resnet20"],
        ["At 20 layers"],
    ),
    "noise that hides the gradient": (
        lambda: noise([400.0, 380, 420, 390, 410], [2.2, -1.0, -0.5, -2.0, 1.3]),
        ["unresolved"],
        ["181"],
    ),
    "a noise scale": (
        lambda: noise([400.0, 380, 420, 390, 410], [20.0, 21, 19, 20, 20]),
        ["is 20 (", "tr Σ = 400 ("],
        ["unresolved"],
    ),
    "one set": (lambda: noise([400.0], [2.2]), ["unresolved"], ["("]),
    "one set, much gradient": (lambda: noise([40.0], [400.0]), ["is 0.1, of one set"], ["unresolved"]),
    "a set that is NaN": (lambda: noise([400.0, math.nan], [20.0, math.nan]), ["unresolved"], ["is 20", "nan"]),
    "one network": (
        lambda: gradients(net("plain20", 10.0)),
        ["plain20 (init): the gradient is 10 (", "(95 % interval)"],
        ["compared", "residual net"],
    ),
    "one network of one seed": (
        lambda: gradients(net("plain20", 10.0, seeds=1)),
        ["10 times as large", "of one seed, without an interval"],
        ["95 % interval)."],
    ),
    "no ratio": (lambda: gradients(net("plain20", math.nan, claim=None)), [], ["times as large"]),
    "two depths, the deeper first": (
        lambda: gradients(*PAIR, net("plain56", 50.0, depth=56), net("resnet56", 2.0, depth=56, claim=None))[:1],
        ["At 56 layers"],
        ["At 20 layers"],
    ),
    "other depths": (
        lambda: gradients(net("plain20", 9.0), net("resnet56", 1.0, depth=56)),
        [],
        ["the plain net's gradient is"],
    ),
    "other modes of batch normalization": (
        lambda: gradients(PAIR[0], PAIR[1] | {"BN": "eval"}),
        ["with different modes of batch normalization are not compared: plain20; resnet20"],
        ["At 20 layers"],
    ),
    "seed by seed": (
        lambda: paired([2.0, 1.0, 3.0, 0.5, 2.5], [1.3, 0.3, 2.32, -0.21, 1.8]),
        ["which is smaller, seed by seed by a factor 0.498 ("],
        ["not significantly different"],
    ),
    "seed by seed, alike": (
        lambda: paired([2.0, 1.0, 3.0, 0.5, 2.5], [1.0, 1.5, 2.9, 0.8, 2.6]),
        ["not significantly different"],
        ["which is"],
    ),
    "seeds that are not the same": (
        lambda: paired([2.0, 1.0, 3.0, 0.5, 2.5], [1.3, 0.3, 2.32, -0.21, 1.8], first=5),
        ["not significantly different"],
        ["seed by seed"],
    ),
    "one seed, the same": (lambda: paired([2.0], [1.0]), ["too few seeds for a conclusion"], ["seed by seed"]),
    "two seeds, the same": (lambda: paired([2.0, 1.9], [1.0, 0.95]), ["At 20 layers"], ["which is"]),
    "trained and near chance, of three": (
        lambda: findings(
            pd.DataFrame([*TRAINED, TRAINED[1] | {"network": "resnet56", "depth": 56}]),
            with_descriptions(
                {"network": name, "recipe": "r", "near_chance": name == "resnet56"}
                for name in ("plain20", "resnet20", "resnet56")
            ),
        ),
        ["which is smaller", "resnet56 is near chance and not compared"],
        [],
    ),
    "a mean cosine": (
        lambda: noise([400.0, 380, 420], [20.0, 21, 19], cosine=[0.05, 0.06, 0.04]),
        ["the gradients of two images have a mean cosine of 0.05 ("],
        [],
    ),
    "a mean cosine of one set": (lambda: noise([40.0], [400.0], cosine=[0.05]), ["a mean cosine of 0.05."], ["0.05 ("]),
    "two sets": (lambda: noise([400.0, 400], [20.0, 20.5]), ["tr Σ"], []),
}


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_findings_by_regime(regime: Regime) -> None:
    check(regime)


def test_a_gradient_of_rounding_errors_has_no_ratio_and_no_growth() -> None:
    rows = [
        {"seed": 0, "index": i, "call": 1, "kind": "linear", "numel": 9, "theory": 1.0, "grad_norm": 1e-18 * i}
        for i in range(1, 6)
    ]
    row = summary_row(pd.DataFrame(rows).assign(float32_error=3e8), "grad_norm", {"network": "net"})
    assert all(math.isnan(row[name]) for name in ("first / last", "growth a layer", "float32 off by"))
    row = summary_row(pd.DataFrame(rows).assign(float32_error=0.3), "grad_norm", {"network": "net"})
    assert row["first / last"] == pytest.approx(1 / 5)


@pytest.mark.parametrize("seeds", [2, 5, *(pytest.param(n, marks=pytest.mark.thorough) for n in (3, 20))])
def test_equal_nets_are_distinguished_in_at_most_one_of_a_hundred_cases(seeds: int) -> None:
    """The weights of a seed change the ratios of both nets equally; the remaining difference is due to chance."""
    draw, runs = np.random.default_rng(seeds), 1000
    false = 0
    for _ in range(runs):
        weights = draw.normal(0, 1, seeds)
        one, other = (list(weights + draw.normal(0, 0.3, seeds)) for _ in range(2))
        said = paired(one, other)[0]
        false += "which is" in said
        assert ("seed by seed" in said) == (seeds > 1)
    # Three standard deviations above 1 %.
    assert false / runs <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / runs)


def test_common_variation_does_not_hide_a_difference() -> None:
    """A difference of three standard deviations, with weights that move both nets by ten."""
    draw, told = np.random.default_rng(0), {0: 0, 5: 0}
    for _ in range(100):
        weights = draw.normal(0, 3, 5)
        one, other = list(weights + draw.normal(0, 0.3, 5)), list(weights - 1.5 + draw.normal(0, 0.3, 5))
        for first in told:
            told[first] += "which is smaller" in paired(one, other, first)[0]
    assert told[0] > 75
    assert told[5] < 10
