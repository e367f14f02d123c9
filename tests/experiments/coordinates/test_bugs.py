"""Twenty planted scaling bugs are found, each at its layer; correct parametrizations pass."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from experiments.coordinates import scaled_networks as nets
from experiments.coordinates.scaled_networks import MUP_ADAM, MUP_SGD, STANDARD, but

from gradlab.experiments.coordinates.coordinates import coordinate_check
from gradlab.results.coordinates.result import CoordinatesResult

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(16, 16, generator=GENERATOR), torch.randint(4, (16,), generator=GENERATOR)
TOKENS = torch.randint(16, (4, 6), generator=GENERATOR), torch.randint(16, (24,), generator=GENERATOR)
ADAM, SGD = torch.optim.Adam, torch.optim.SGD
WIDTHS = {"widths": (64, 128, 256, 512), "batch": IMAGES}
NARROW = {"widths": (32, 64, 128, 256), "batch": TOKENS}
DEPTHS = {"depths": (4, 8, 16, 32, 64), "batch": IMAGES}


@dataclass(frozen=True)
class Case:
    """A network of several sizes, and the layer or block of its bug."""

    name: str
    make_model: Callable[[int], Any]
    sizes: dict[str, Any]
    layer: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> CoordinatesResult:
        return coordinate_check(self.make_model, **self.sizes, **self.options, device="cpu")


def adam(**changes: nets.Exponents) -> Callable[[int], Any]:
    return nets.mlp(MUP_ADAM, ADAM, 1e-3, **changes)


def sgd(**changes: nets.Exponents) -> Callable[[int], Any]:
    return nets.mlp(MUP_SGD, SGD, 0.1, **changes)


HIDDEN, INPUT, OUTPUT = MUP_ADAM["hidden"], MUP_ADAM["input"], MUP_ADAM["output"]
LONGER = {"steps": 5, "seeds": 4}

RIGHT = [
    Case("μP, Adam", adam(), WIDTHS),
    Case("μP, SGD", sgd(), WIDTHS),
    Case("μP, transformer", nets.transformer(MUP_ADAM), NARROW, options=LONGER),
    Case("Depth-μP", nets.residual(), DEPTHS),
    Case("standard, SGD", nets.mlp(STANDARD, SGD, 1e-5), WIDTHS, options={"parametrization": "standard"}),
    Case("standard, Adam", nets.mlp(STANDARD, ADAM, 1e-7), WIDTHS, options={"parametrization": "standard"}),
]

BUGS = [
    Case("hidden rates not scaled", nets.mlp({**MUP_ADAM, "hidden": but(HIDDEN, c=0)}, ADAM, 1e-3), WIDTHS, "second"),
    Case("one hidden rate not scaled", adam(third=but(HIDDEN, c=0)), WIDTHS, "third"),
    Case("hidden rate by the root", adam(second=but(HIDDEN, c=0.5)), WIDTHS, "second"),
    Case("hidden weights not scaled", adam(second=but(HIDDEN, b=0)), WIDTHS, "second"),
    Case("hidden weights scaled twice", adam(third=but(HIDDEN, b=1)), WIDTHS, "third"),
    Case("input rate scaled as hidden", adam(first=but(INPUT, c=1)), WIDTHS, "first"),
    Case("input weights scaled by fan-out", adam(first=but(INPUT, b=0.5)), WIDTHS, "first"),
    Case("output without a multiplier", adam(head=but(OUTPUT, a=0)), WIDTHS, "head"),
    Case("output multiplier by the root", adam(head=but(OUTPUT, a=0.5)), WIDTHS, "head"),
    Case("output scaled twice", adam(head=but(OUTPUT, a=2)), WIDTHS, "head"),
    Case("standard, by Adam", nets.mlp(STANDARD, ADAM, 1e-4), WIDTHS, "second"),
    Case("standard, by SGD", nets.mlp(STANDARD, SGD, 1e-2), WIDTHS, "first"),
    Case("input rate of SGD not scaled", sgd(first=but(MUP_SGD["input"], c=0)), WIDTHS, "first"),
    Case("hidden rate of SGD scaled as Adam's", sgd(second=but(MUP_SGD["hidden"], c=1)), WIDTHS, "second"),
    Case("attention by the root", nets.transformer(MUP_ADAM, scale=0.5), NARROW, "blocks.0.attention.scores", LONGER),
    Case("embedding scaled", nets.transformer(MUP_ADAM, embedding=but(INPUT, b=0.5)), NARROW, "embedding", LONGER),
    Case("one projection's rate", nets.transformer(MUP_ADAM, down=but(HIDDEN, c=0)), NARROW, "blocks.0.down", LONGER),
    Case("branches not scaled", nets.residual(branch=0.0), DEPTHS, "blocks[first]"),
    Case("branches scaled twice", nets.residual(branch=1.0), DEPTHS, "blocks[first]"),
    Case("rates not scaled with depth", nets.residual(depth_rate=0.0), DEPTHS, "blocks[first].layer"),
]


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case.name)
def test_right_parametrization_passes(case: Case) -> None:
    result = case.check()
    assert result.passed, result.findings()
    told = result.slopes()["verdict"].isin(["as expected"])
    assert told.mean() > 0.8


ALIKE = {
    "one hidden rate not scaled",
    "hidden rate by the root",
    "hidden weights scaled twice",
    "output multiplier by the root",
    "output scaled twice",
    "one projection's rate",
    "branches scaled twice",
}
"""Bugs in thorough tests only: each scales the same thing in another wrong way, or by another power, than one here."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.thorough if case.name in ALIKE else (), id=case.name) for case in BUGS],
)
def test_bug_is_found_at_its_layer(case: Case) -> None:
    wrong = [layer for _, layer in case.check().wrong()]
    assert wrong, "not found"
    assert wrong[0].startswith(case.layer)


def test_there_are_twenty_bugs() -> None:
    assert len(BUGS) == 20
    assert {case.name for case in BUGS} > ALIKE
