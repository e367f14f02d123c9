"""The findings on shattered gradients, regime by regime."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from regimes import Regime, Sentences, check

import gradlab as gl
from gradlab.models import parse_family
from gradlab.results.shatter.findings import findings, nearest_noise


def shatter(
    lag1: dict[str, tuple[float, float, int, int]], width: int = 200, constant: int = 0, fits: Any = ()
) -> Sentences:
    """A result of families with value, standard error, seeds and depth."""
    rows, acf = [], []
    for network, (value, sem, seeds, depth) in lag1.items():
        norm = "none" if "none" in network or network == "ll" else "bn"
        key = {"network": network, "norm": norm, "depth": depth, "seeds": seeds, "theory": math.nan}
        rows.append({**key, "statistic": "lag1", "value": value, "sem": sem})
        rows.append({**key, "statistic": "coactivation", "value": 0.26, "sem": 0.01})
        rows += [{**key, "from_layer": 8, **fit} for fit in fits]
        acf.append({"network": network, "depth": depth, "lag": 1, "n_constant": constant, "seeds": seeds})
    families = [{"network": name, "description": parse_family(name).description.to_dict()} for name in lag1]
    return findings(pd.DataFrame(rows), pd.DataFrame(acf), width, families)


def fit(statistic: str, value: float, sem: float, theory: float = math.nan) -> dict[str, Any]:
    return {"statistic": statistic, "value": value, "sem": sem, "theory": theory}


FITS = [fit("decay_exponent", -0.67, 0.02, -0.65), fit("pair_decay_exponent", -0.88, 0.02)]
REGIMES: dict[str, Regime] = {
    "residual above feedforward": (
        lambda: shatter({"ff": (0.0, 0.02, 20, 32), "resnet": (0.59, 0.02, 20, 32)}),
        ["in resnet, larger"],
        ["not significantly different"],
    ),
    "two seeds": (
        lambda: shatter({"ff": (0.0, 0.02, 2, 32), "resnet": (0.1, 0.02, 2, 32)}),
        ["in resnet, not significantly different"],
        ["larger", "smaller"],
    ),
    "one seed": (
        lambda: shatter({"ff": (0.0, math.nan, 1, 32), "resnet": (0.6, math.nan, 1, 32)}),
        ["lag-1 autocorrelation of 0.000 in ff (bn); 0.600 in resnet."],
        ["larger", "nan", "interval"],
    ),
    "all nets constant": (
        lambda: shatter({"ff": (1.0, 0.0, 5, 32), "resnet": (1.0, 0.0, 5, 32)}, constant=5),
        ["all constant, which counts as 1"],
        ["larger", "shatter as"],
    ),
    "dead nets without normalization": (
        lambda: shatter({"ff-norm=none": (0.95, 0.01, 20, 32)}, constant=12),
        ["12 of 20 constant", "no conclusion on shattering is possible"],
        ["does not shatter"],
    ),
    "depth 2": (lambda: shatter({"ff-norm=none": (0.95, 0.01, 20, 2)}), [], ["does not shatter"]),
    "without normalization": (
        lambda: shatter({"ff-norm=none": (0.87, 0.01, 20, 24)}),
        ["does not shatter as one with it does"],
        ["so few"],
    ),
    "without normalization, two seeds": (
        lambda: shatter({"ff-norm=none": (0.87, 0.1, 2, 24)}),
        ["too few nets to conclude"],
        ["does not shatter"],
    ),
    "width 1": (
        lambda: shatter({"ff-norm=none": (0.9, 0.01, 20, 24)}, width=1, fits=FITS),
        ["With 1 neuron per layer nothing is compared with the laws"],
        ["does not shatter", "coin"],
    ),
    "width 2": (
        lambda: shatter({"resnet": (0.9, 0.01, 20, 24)}, width=2, fits=FITS),
        ["With 2 neurons per layer"],
        ["coin"],
    ),
    "fits by name": (
        lambda: shatter({"resnet": (0.6, 0.01, 20, 64)}, fits=FITS),
        [
            "fixed pair falls as L^p with p = -0.880",
            "average pair as L^p with p = -0.670",
            "not significantly different",
        ],
        ["agrees"],
    ),
    "a fit off its law": (
        lambda: shatter({"resnet": (0.6, 0.01, 20, 64)}, fits=[fit("decay_exponent", -0.5, 0.01, -0.65)]),
        ["the measured fall is slower"],
        ["not significantly different", "fixed pair"],
    ),
    "a fit of one seed": (
        lambda: shatter({"resnet": (0.6, math.nan, 1, 64)}, fits=[fit("decay_exponent", -0.5, math.nan, -0.65)]),
        ["there are too few seeds for a conclusion"],
        ["slower", "nan"],
    ),
    "the greatest depth first": (
        lambda: shatter({"ff": (0.0, 0.02, 20, 32), "resnet": (0.59, 0.02, 20, 32)})[:1],
        ["At depth 32"],
        [],
    ),
    "no feedforward net": (
        lambda: shatter({"resnet": (0.59, 0.02, 20, 32)}),
        ["At depth 32 gradients of neighbouring inputs have a lag-1 autocorrelation (95 % interval) of 0.590 ("],
        ["larger", "smaller"],
    ),
    "smaller": (
        lambda: shatter({"ff": (0.6, 0.02, 20, 32), "resnet": (0.1, 0.02, 20, 32)}),
        ["in resnet, smaller"],
        ["larger"],
    ),
    "equal nets": (
        lambda: shatter({"ff": (0.5, 0.02, 20, 32), "resnet": (0.5, 0.02, 20, 32)}),
        ["not significantly different"],
        ["larger", "smaller"],
    ),
    "NaN": (
        lambda: shatter({"ff": (0.5, 0.02, 20, 32), "resnet": (math.nan, math.nan, 20, 32)}),
        ["in ff"],
        ["larger"],
    ),
    "three families": (
        lambda: shatter({"ff": (0.0, 0.02, 20, 32), "resnet": (0.59, 0.02, 20, 32), "ll": (1.0, 0.0, 20, 32)}),
        ["in resnet, larger", "1.000 in ll."],
        [],
    ),
}


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_findings_by_regime(regime: Regime) -> None:
    check(regime)


@pytest.mark.parametrize(
    ("lag1", "tail", "word"),
    [
        (0.0, 0.0, "white"),
        (0.589, 0.02, "between"),
        (0.97, 0.7, "brown"),
        (0.5, 0.4, "between"),
        (1.0, 1.0, "smoother"),
    ],
)
def test_the_nearest_noise(lag1: float, tail: float, word: str) -> None:
    brown, white = gl.stats.brown_noise_acf(256, 20).tolist(), gl.stats.white_noise_acf(256, 20).tolist()
    values = {1.0: [1.0] * 20, 0.97: brown[1:]}.get(lag1, [lag1, *[tail] * 19])
    acf = pd.DataFrame({"lag": range(1, 21), "acf": values, "n_constant": 0, "seeds": 5})
    assert nearest_noise(acf, {"brown": brown, "white": white}).startswith(word)
