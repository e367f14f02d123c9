"""`gl.shatter` against a second implementation of its definitions, by distributions over independent draws."""

import numpy as np
import pytest
from oracles.shatter import Net, autocorrelation, correlation

import gradlab as gl

POINTS, WIDTH, SEEDS, LAGS, DEPTHS = 48, 48, 80, 12, (2, 8)
PAIR = (12, 35)
FAMILIES = {
    "ff-norm=none": ("ff", "none", 1.0),
    "ff-norm=center": ("ff", "center", 1.0),
    "ff-norm=bn": ("ff", "bn", 1.0),
    "resnet-norm=none": ("resnet", "none", 1.0),
    "resnet": ("resnet", "bn", 1.0),
    "resnet-beta=0.1": ("resnet", "bn", 0.1),
    "ll": ("ll", "none", 1.0),
}


def reference(name, depth):
    x = np.linspace(-2, 2, POINTS)
    rng = np.random.default_rng([depth, *name.encode()])
    return [Net(*FAMILIES[name], depth, WIDTH, x, PAIR, rng) for _ in range(SEEDS)]


@pytest.mark.parametrize("name", FAMILIES)
def test_distributions_are_those_of_the_definitions(name):
    result = gl.shatter(DEPTHS, name, seeds=SEEDS, points=POINTS, width=WIDTH, lags=LAGS, device="cpu")
    for depth in DEPTHS:
        nets = reference(name, depth)
        acf = np.array([autocorrelation(net.gradient, LAGS) for net in nets])
        rows = result.frame[result.frame["depth"] == depth]
        error = np.hypot(rows["acf_sem"], acf.std(0, ddof=1) / SEEDS**0.5)
        assert (np.abs(rows["acf"] - acf.mean(0)) <= 4 * error + 1e-9).all()

        measured = result.summary_frame[result.summary_frame["depth"] == depth].set_index("statistic")
        coactive = np.array([net.coactivation for net in nets])
        row = measured.loc["coactivation"]
        assert abs(row["value"] - coactive.mean()) <= 4 * np.hypot(row["sem"], coactive.std() / SEEDS**0.5) + 1e-9

        moments = np.array([net.moments for net in nets])
        left_out = np.array([correlation(np.delete(moments, i, 0)) for i in range(SEEDS)])
        row = measured.loc["path_correlation"]
        error = np.hypot(row["sem"], left_out.std() * (SEEDS - 1) ** 0.5)
        assert abs(row["value"] - correlation(moments)) <= 4 * error + 1e-9
