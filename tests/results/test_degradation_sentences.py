"""The findings on training errors, regime by regime."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from regimes import Regime, Sentences, check

from gradlab.results.degradation.findings import findings
from gradlab.results.label import with_descriptions


def trained(
    errors: dict[str, float], images: int = 50_000, classes: int = 10, steps: int = 64_000, **keys: str
) -> Sentences:
    facts = {"images": images, "classes": classes, "steps": steps}
    return findings(
        with_descriptions(
            {"network": name, "error": error, "key": keys.get(name, "k"), **facts} for name, error in errors.items()
        )
    )


REGIMES: dict[str, Regime] = {
    "degradation": (
        lambda: trained({"plain20": 0.1, "plain56": 0.2, "plain110": 0.3}),
        ["deeper nets train worse"],
        ["no trend"],
    ),
    "few images": (
        lambda: trained({"plain20": 0.1, "plain56": 0.12}, images=500),
        ["no significant trend over depth"],
        ["worse"],
    ),
    "up and down": (
        lambda: trained({"plain20": 0.1, "plain56": 0.2, "plain110": 0.14}),
        ["in one direction"],
        ["worse"],
    ),
    "near chance": (
        lambda: trained({"plain20": 0.1, "plain56": 0.12, "plain110": 0.9}),
        ["near chance"],
        ["90.00% (110)"],
    ),
    "two classes": (lambda: trained({"plain20": 0.1, "plain56": 0.4}, classes=2), ["near chance"], ["worse"]),
    "other lengths": (lambda: trained({"plain20": 0.1, "plain56": 0.2}, plain56="longer"), [], ["plain", "Plain"]),
    "equal errors": (
        lambda: trained({"plain20": 0.1, "resnet20": 0.1}),
        ["not significantly different from"],
        ["lower", "higher"],
    ),
    "no degradation": (lambda: trained({"resnet20": 0.1, "resnet56": 0.05}), ["train better"], ["worse"]),
    "a residual net that trains better": (
        lambda: trained({"plain56": 0.2, "resnet56": 0.1}),
        ["is lower than the plain net's"],
        ["higher", "told"],
    ),
    "a variant within the spread of seeds": (
        lambda: trained({"resnet56": 0.1, "resnet56-preact": 0.104}),
        ["not significantly different from"],
        ["higher", "lower"],
    ),
    "a variant that trains much worse": (
        lambda: trained({"resnet56": 0.05, "resnet56-relu-before-add": 0.2}),
        ["higher than that of resnet56"],
        [],
    ),
    "few steps": (
        lambda: trained({"plain20": 0.1, "plain56": 0.4, "resnet20": 0.3}, steps=1999),
        ["plain20, plain56 and resnet20 ended after 1,999 steps, too few for a verdict on fewer than 3 seeds"],
        ["deeper", "lower", "higher"],
    ),
    "one net of few steps": (lambda: trained({"plain20": 0.1}, steps=8), [], ["too few"]),
    "one net": (lambda: trained({"plain20": 0.1}), [], ["deeper", "lower"]),
    "all near chance": (lambda: trained({"plain20": 0.9, "plain56": 0.9}), ["near chance"], ["deeper"]),
    "no error at all": (
        lambda: trained({"plain20": 0.0, "plain56": 0.0}),
        ["no significant trend over depth"],
        ["worse"],
    ),
}


def test_errors_of_several_seeds_are_called_means() -> None:
    errors = {"plain20": [0.20, 0.22, 0.21], "resnet20": [0.10, 0.12], "resnet56": [0.05]}
    runs = [
        {"network": name, "error": error, "images": 50_000, "key": "k", "classes": 10, "seed": seed}
        for name, shares in errors.items()
        for seed, error in enumerate(shares)
    ]
    pair, trend = sorted(findings(with_descriptions(runs)))
    assert pair == (
        "At depth 20 the residual net's mean training error over 2 to 3 seeds, 11.00%, is lower than the plain net's, "
        "21.00%."
    )
    assert trend.startswith("Residual nets end with a mean training error over 1 to 2 seeds of 11.00% (20), 5.00% (56)")


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_findings_by_regime(regime: Regime) -> None:
    check(regime)


def test_three_seeds_of_few_steps_are_compared() -> None:
    errors = {"plain20": [0.20, 0.21, 0.22], "plain56": [0.40, 0.41, 0.42], "resnet20": [0.1]}
    runs = [
        {"network": name, "error": error, "images": 50_000, "key": "k", "classes": 10, "seed": seed, "steps": 100}
        for name, shares in errors.items()
        for seed, error in enumerate(shares)
    ]
    trend, short = findings(with_descriptions(runs))
    assert trend.endswith("deeper nets train worse, which is degradation and not overfitting.")
    assert short.startswith("resnet20 ended after 100 steps")


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_nets_are_told_apart_in_one_result_of_a_hundred(seeds: int) -> None:
    random, results, false = np.random.default_rng(seeds), 200, 0
    facts = {"images": 50_000, "key": "k", "classes": 10, "steps": 64_000}
    nets = with_descriptions({"network": f"{net}{n}"} for net in ("plain", "resnet") for n in (20, 32, 56))
    for _ in range(results):
        shares = random.binomial(50_000, random.normal(0.1, 0.005, (seeds, len(nets)))) / 50_000
        runs = [
            {**net, **facts, "seed": seed, "error": error}
            for seed, errors in enumerate(shares)
            for net, error in zip(nets, errors, strict=True)
        ]
        said = " ".join(findings(runs))
        false += any(word in said for word in ("worse", "better", "lower", "higher", "in one direction"))
    assert false <= scipy.stats.binom.ppf(0.9999, results, 0.01)
