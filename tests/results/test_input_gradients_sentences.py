"""The findings on input gradients, regime by regime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from regimes import Regime, Sentences, check

import gradlab as gl
from gradlab.results.label import with_descriptions


def images(nets: dict[str, tuple[float, float]], units: int = 4, facts: Any = None, spread: float = 0.002) -> Sentences:
    """A result of networks with the given relative effective ranks and autocorrelations at lag 1."""
    steps = np.linspace(-1, 1, units) * spread if units > 1 else [0.0]
    return gl.InputGradientsResult.concat(
        gl.InputGradientsResult.from_samples(
            name,
            [[{"relative_effective_rank": rank + step, "segment_lag1": lag1 - step}] for step in steps],
            depth=20, norm="bn", bn="batch", norm_grad="frozen",
            facts=with_descriptions([{"network": name, "name": name.split("@")[0], **(facts or {}).get(name, {})}])[0],
        )
        for name, (rank, lag1) in nets.items()
    ).findings()  # fmt: skip


KNOWN = {"recipe": "r", "trained": True, "images": 100}
REGIMES: dict[str, Regime] = {
    "ranks that are near noise": (
        lambda: images({"plain56@init": (0.88, 0.0), "resnet56@init": (0.877, 0.5)}, spread=0.004),
        [
            "nearer to noise than those of resnet56@init by autocorrelation",
            "Near the rank of noise: plain56@init (0.880) and resnet56@init (0.877)",
        ],
        ["by relative effective rank"],
    ),
    "equal images": (
        lambda: images({"plain20@init": (0.5, 0.3), "resnet20@init": (0.5, 0.3)}),
        ["are not significantly different"],
        ["nearer"],
    ),
    "one batch": (
        lambda: images({"plain20@init": (0.9, 0.1), "resnet20@init": (0.5, 0.6)}, units=1),
        ["No conclusion is possible"],
        ["nearer", "nan"],
    ),
    "images, one recipe": (
        lambda: images({"plain20": (0.9, 0.1), "resnet20": (0.5, 0.6)}, facts={"plain20": KNOWN, "resnet20": KNOWN}),
        ["nearer to noise", "Near the rank of noise at 100 images per batch: plain20 (0.900)."],
        ["resnet20 (0.500)"],
    ),
    "images, other recipes": (
        lambda: images(
            {"plain20": (0.9, 0.1), "resnet20": (0.5, 0.6)},
            facts={"plain20": KNOWN, "resnet20": KNOWN | {"recipe": "s"}},
        ),
        ["of different recipes or lengths of training are not compared: plain20; resnet20"],
        ["nearer"],
    ),
    "images, near chance": (
        lambda: images(
            {"plain20": (0.9, 0.1), "resnet20": (0.5, 0.6)},
            facts={"plain20": KNOWN, "resnet20": KNOWN | {"near_chance": True}},
        ),
        ["resnet20 is near chance and not compared"],
        ["nearer"],
    ),
    "one network": (
        lambda: images({"plain20@init": (0.5, 0.3)}),
        ["plain20@init: the relative effective rank is 0.500 (", "(95 % intervals)"],
        ["nearer"],
    ),
    "one network, one batch": (
        lambda: images({"plain20@init": (0.5, 0.3)}, units=1),
        ["effective rank is 0.500, the autocorrelation between two inputs at lag 1 is 0.300."],
        ["interval", "nan"],
    ),
    "one network that is saturated": (
        lambda: images({"plain20@init": (0.95, 0.3)}),
        ["Near the rank of noise: plain20@init (0.950)."],
        ["nearer"],
    ),
    "deeper": (
        lambda: images({"plain20@init": (0.5, 0.3), "plain56@init": (0.7, 0.1)}),
        ["From 20 to 56 layers, of plain, the relative effective rank rises"],
        ["nearer"],
    ),
    "unknown recipes": (
        lambda: images(
            {"plain20": (0.7, 0.1), "resnet20": (0.5, 0.6)},
            facts=dict.fromkeys(("plain20", "resnet20"), KNOWN | {"recipe": None}),
        ),
        ["The weights of plain20 and resnet20 have unknown recipes"],
        ["nearer"],
    ),
    "trained against initial": (
        lambda: images(
            {"plain20": (0.7, 0.1), "resnet20": (0.5, 0.6)},
            facts={"plain20": KNOWN, "resnet20": KNOWN | {"trained": False}},
        ),
        ["with and without training are not compared: plain20; resnet20"],
        ["nearer"],
    ),
    "two batches": (
        lambda: images({"plain20@init": (0.7, 0.1), "resnet20@init": (0.5, 0.6)}, units=2, spread=0.02),
        ["not significantly different"],
        ["nearer"],
    ),
    "NaN": (
        lambda: images({"plain20@init": (float("nan"), 0.1), "resnet20@init": (0.5, 0.6)}),
        ["by autocorrelation"],
        ["by relative effective rank"],
    ),
    "further from noise": (
        lambda: images({"plain20@init": (0.3, 0.6), "resnet20@init": (0.5, 0.1)}),
        ["further from noise"],
        ["nearer"],
    ),
}


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_findings_by_regime(regime: Regime) -> None:
    check(regime)
