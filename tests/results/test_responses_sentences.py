"""The findings on layer responses, regime by regime."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from regimes import Regime, Sentences, check

from gradlab.results.label import with_descriptions
from gradlab.results.responses.findings import findings, one_network
from gradlab.results.responses.gaps import gaps

NAMES = [f"layer{stage}.{block}.conv{conv}" for stage in (1, 2, 3) for block in (0, 1, 2) for conv in (1, 2)]


def responses(stds: dict[str, Any], names: list[str] = NAMES, **changed: dict[str, Any]) -> Sentences:
    """A result of networks whose layers' stds are a number times a common spread, or given one by one."""
    rows, facts = [], []
    for network, given in stds.items():
        values = np.broadcast_to(given, len(names)) * (np.linspace(0.8, 1.2, len(names)) if np.isscalar(given) else 1)
        rows += [{"network": network, "layer": name, "std": v} for name, v in zip(names, values, strict=True)]
        fact = {"network": network, "name": network, "recipe": "r", "bn": "eval", "trained": True}
        facts.append(fact | changed.get(network, {}) | changed.get("all", {}))
    return findings(pd.DataFrame(rows), "std", with_descriptions(facts))


def mostly(share: float, ratio: float = 0.9) -> np.ndarray:
    """Stds that are smaller by `ratio` at a fraction of the layers and larger at the others."""
    count = round(share * len(NAMES))
    return np.array([ratio] * count + [1 / ratio] * (len(NAMES) - count)) * np.linspace(0.8, 1.2, len(NAMES))


INITIAL = {"trained": False, "bn": "batch"}
REGIMES: dict[str, Regime] = {
    "smaller everywhere": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}),
        ["smaller responses than the plain net: smaller at 18 of 18 layers", "0.50 in layer3"],
        ["larger"],
    ),
    "larger everywhere": (
        lambda: responses({"plain20": 1.0, "resnet20": 2.0}),
        ["larger responses than the plain net: larger at 18 of 18"],
        ["smaller"],
    ),
    "equal nets": (
        lambda: responses({"plain20": 1.0, "resnet20": 1.0}),
        ["responses that are not significantly different from the plain net's"],
        ["smaller responses", "larger responses"],
    ),
    "a small difference of medians": (
        lambda: responses({"plain20": 1.0, "resnet20": mostly(0.6, 0.975)}),
        ["not significantly different from the plain net's", "smaller at 11 of 18"],
        ["smaller responses than"],
    ),
    "the last stage the other way": (
        lambda: responses({"plain20": 1.0, "resnet20": mostly(12 / 18, 1 / 1.15)}),
        ["1.15 in layer3", "0.87 in layer1"],
        ["has smaller responses"],
    ),
    "one layer": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, ["conv1"]),
        ["too few layers to compare"],
        ["quartiles", "smaller responses", "nan"],
    ),
    "seven layers": (
        lambda: responses({"plain8": 1.0, "resnet8": 0.5}, NAMES[:7]),
        ["too few layers to compare"],
        ["smaller responses"],
    ),
    "other recipes": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, plain20={"recipe": "other"}),
        ["Networks of different recipes or lengths of training are not compared"],
        ["At 20 layers"],
    ),
    "other seeds": (
        lambda: responses(
            {"plain20": 1.0, "resnet20": 0.5},
            plain20={"recipe": "gradlab he2015, 40 epochs, seed 0"},
            resnet20={"recipe": "gradlab he2015, 40 epochs, seed 12"},
        ),
        ["has smaller responses than the plain net"],
        ["not compared"],
    ),
    "other lengths": (
        lambda: responses({"resnet20": 1.0, "resnet56": 0.5}, resnet56={"recipe": "r, 12 epochs"}),
        ["are not compared"],
        ["Deeper"],
    ),
    "unknown recipes": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, all={"recipe": None}),
        ["The weights of plain20 and resnet20 have unknown recipes"],
        ["At 20 layers"],
    ),
    "near chance": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, plain20={"near_chance": True}),
        ["plain20 is near chance and not compared"],
        ["At 20 layers"],
    ),
    "all NaN": (lambda: responses({"plain20": math.nan, "resnet20": 0.5}), [], ["At 20 layers", "nan"]),
    "some NaN": (
        lambda: responses({"plain20": 1.0, "resnet20": np.array([math.nan] * 9 + [0.5] * 9)}),
        ["smaller at 9 of 9 layers"],
        ["nan"],
    ),
    "initial": (
        lambda: responses({"resnet20": np.ones(18)}, all=INITIAL),
        ["every normalized response has a std of 1 at initialization"],
        ["γ = 0, and"],
    ),
    "initial, γ = 0": (
        lambda: responses({"resnet20": np.tile([1.0, 1.0, 0.0], 6)}, all=INITIAL),
        ["0 in the 6 of 18 layers that begin with γ = 0"],
        ["has a std of 1"],
    ),
    "deeper, smaller": (
        lambda: responses({"resnet20": 1.0, "resnet56": 0.5, "resnet110": 0.25}),
        ["Deeper residual nets have smaller responses"],
        ["larger"],
    ),
    "deeper, as large": (
        lambda: responses({"resnet20": 1.0, "resnet56": 0.99, "resnet110": 0.98}),
        ["of different depths are not significantly different"],
        ["Deeper"],
    ),
    "deeper, not in one direction": (
        lambda: responses({"resnet20": 1.0, "resnet56": 0.2, "resnet110": 0.6}),
        ["do not change with depth in one direction"],
        ["Deeper"],
    ),
    "no batch normalization": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, all={"bn": "none"}),
        ["smaller at 18 of 18"],
        ["modes of batch normalization"],
    ),
    "other modes of batch normalization": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, plain20={"bn": "batch"}),
        ["with different modes of batch normalization are not compared: plain20; resnet20"],
        ["At 20 layers"],
    ),
    "three networks of two recipes": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5, "resnet56": 0.2}, resnet56={"recipe": "s"}),
        ["smaller at 18 of 18", "are not compared: plain20 and resnet20; resnet56"],
        ["Deeper"],
    ),
    "one near chance, and a pair": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5, "resnet56": 0.2}, resnet56={"near_chance": True}),
        ["smaller at 18 of 18", "resnet56 is near chance"],
        ["Deeper"],
    ),
    "two near chance": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, all={"near_chance": True}),
        ["plain20 and resnet20 are near chance"],
        ["At 20 layers", "is near chance"],
    ),
    "one unknown recipe": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, plain20={"recipe": None}),
        ["The weights of plain20 have unknown recipes"],
        ["At 20 layers", "Networks of different"],
    ),
    "the deepest pair first": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.9, "plain56": 1.0, "resnet56": 0.5})[:1],
        ["At 56 layers"],
        ["At 20 layers"],
    ),
    "then the trend": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.9, "plain56": 1.0, "resnet56": 0.5})[1:2],
        ["residual nets"],
        ["plain"],
    ),
    "other depths": (lambda: responses({"plain20": 1.0, "resnet56": 0.5}), [], ["layers", "smaller"]),
    "a single network": (lambda: responses({"resnet20": 1.0}), [], ["compared"]),
    "dead layers": (
        lambda: responses({"plain20": np.array([0.0] * 9 + [1.0] * 9), "resnet20": 0.5}),
        ["At 20 layers"],
        ["inf"],
    ),
    "initial, γ = 0 in one of two": (
        lambda: responses({"plain20": np.ones(18), "resnet20": np.tile([1.0, 1.0, 0.0], 6)}, all=INITIAL),
        ["resnet20: with batch statistics", "a std of 1 at initialization"],
        ["plain20:"],
    ),
}


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_findings_by_regime(regime: Regime) -> None:
    check(regime)


def test_one_network_is_described() -> None:
    found = one_network("resnet20", pd.Series([0.5, 1.0, 0.25, 2.0], index=["a", "b", "c", "d"]))
    assert found == [
        "resnet20: the median std of 4 layers' responses is 0.750 (quartiles 0.438 to 1.250), the largest 2.000 at d "
        "and the smallest 0.250 at c."
    ]
    assert one_network("net", pd.Series([0.5], index=["fc"])) == ["net: the std of the responses of fc is 0.500."]
    assert one_network("empty", pd.Series([], dtype=float)) == []


def test_gaps_with_one_cause_are_one_sentence() -> None:
    rows = [
        {"network": name, "layer": layer, "std": 1.0, "predicted_std": 1.0 + off}
        for name, offs in {"a": (0.02, 0.04), "b": (0.1, 0.3), "c": (0.0, 0.001), "d": (0.5, 0.5)}.items()
        for layer, off in zip(("first", "second"), offs, strict=True)
    ]
    facts = [{"network": name, "bn": "eval", "trained": name != "d"} for name in "abcd"]
    assert gaps(pd.DataFrame(rows), facts) == [
        "a and b: the std predicted from running statistics is off by 3.0% to 20.0% on average and by up to 30%, at "
        "second of b: they come from other inputs than these.",
        "d: the std predicted from running statistics is off by 50.0% on average and by up to 50%, at first: they are "
        "still 0 and 1.",
    ]
