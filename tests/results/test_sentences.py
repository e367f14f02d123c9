"""What findings say, and do not say, regime by regime: few seeds, dead nets, equal nets, nets near chance and more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gradlab as gl
from gradlab.models import parse_family
from gradlab.results.degradation.findings import findings as degradation_findings
from gradlab.results.finding import rule_of
from gradlab.results.gradients.findings import findings as gradient_findings
from gradlab.results.gradients.noise import noise_findings
from gradlab.results.gradients.summary import summary_row
from gradlab.results.label import with_descriptions
from gradlab.results.responses.findings import findings as response_findings
from gradlab.results.shatter.findings import findings as shatter_findings
from gradlab.results.shatter.findings import nearest_noise

Sentences = Sequence[str]
DRAW = np.random.default_rng(0)


# Layer responses.

NAMES = [f"layer{stage}.{block}.conv{conv}" for stage in (1, 2, 3) for block in (0, 1, 2) for conv in (1, 2)]


def responses(stds: dict[str, Any], names: list[str] = NAMES, **changed: dict[str, Any]) -> Sentences:
    """Of networks whose layers' stds are a number times a common spread, or given one by one."""
    rows, facts = [], []
    for network, given in stds.items():
        values = np.broadcast_to(given, len(names)) * (np.linspace(0.8, 1.2, len(names)) if np.isscalar(given) else 1)
        rows += [{"network": network, "layer": name, "std": v} for name, v in zip(names, values, strict=True)]
        fact = {"network": network, "name": network, "recipe": "r", "bn": "eval", "trained": True}
        facts.append(fact | changed.get(network, {}) | changed.get("all", {}))
    return response_findings(pd.DataFrame(rows), "std", with_descriptions(facts))


def mostly(share: float, ratio: float = 0.9) -> np.ndarray:
    """Smaller by `ratio` at a share of the layers, larger at the others."""
    count = round(share * len(NAMES))
    return np.array([ratio] * count + [1 / ratio] * (len(NAMES) - count)) * np.linspace(0.8, 1.2, len(NAMES))


INITIAL = {"trained": False, "bn": "batch"}
RESPONSES: dict[str, tuple[Callable[[], Sentences], list[str], list[str]]] = {
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
        ["responses that are not told from the plain net's"],
        ["smaller responses", "larger responses"],
    ),
    "a small difference of medians": (
        lambda: responses({"plain20": 1.0, "resnet20": mostly(0.6, 0.975)}),
        ["not told from the plain net's", "smaller at 11 of 18"],
        ["smaller responses than"],
    ),
    "the last stage the other way": (
        lambda: responses({"plain20": 1.0, "resnet20": mostly(12 / 18, 1 / 1.15)}),
        ["1.15 in layer3", "0.87 in layer1"],
        ["has smaller responses"],
    ),
    "one layer": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, ["conv1"]),
        ["too few layers to tell"],
        ["quartiles", "smaller responses", "nan"],
    ),
    "seven layers": (
        lambda: responses({"plain8": 1.0, "resnet8": 0.5}, NAMES[:7]),
        ["too few layers to tell"],
        ["smaller responses"],
    ),
    "other recipes": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, plain20={"recipe": "other"}),
        ["Networks of different recipes or lengths of training are not compared"],
        ["At 20 layers"],
    ),
    "other lengths": (
        lambda: responses({"resnet20": 1.0, "resnet56": 0.5}, resnet56={"recipe": "r, 12 epochs"}),
        ["are not compared"],
        ["Deeper"],
    ),
    "unknown recipes": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, all={"recipe": None}),
        ["Nothing says how plain20 and resnet20 came about"],
        ["At 20 layers"],
    ),
    "near chance": (
        lambda: responses({"plain20": 1.0, "resnet20": 0.5}, plain20={"near_chance": True}),
        ["plain20 is near chance and compared with no other"],
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
        ["of different depths are not told apart"],
        ["Deeper"],
    ),
    "deeper, not in one direction": (
        lambda: responses({"resnet20": 1.0, "resnet56": 0.2, "resnet110": 0.6}),
        ["do not change with depth in one direction"],
        ["Deeper"],
    ),
}


# Shatter.


def shatter(
    lag1: dict[str, tuple[float, float, int, int]], width: int = 200, constant: int = 0, fits: Any = ()
) -> Sentences:
    """Of families with value, standard error, seeds and depth."""
    rows, acf = [], []
    for network, (value, sem, seeds, depth) in lag1.items():
        norm = "none" if "none" in network or network == "ll" else "bn"
        key = {"network": network, "norm": norm, "depth": depth, "seeds": seeds, "theory": math.nan}
        rows.append({**key, "statistic": "lag1", "value": value, "sem": sem})
        rows.append({**key, "statistic": "coactivation", "value": 0.26, "sem": 0.01})
        rows += [{**key, "from_layer": 8, **fit} for fit in fits]
        acf.append({"network": network, "depth": depth, "lag": 1, "n_constant": constant, "seeds": seeds})
    families = [{"network": name, "description": parse_family(name).description.to_dict()} for name in lag1]
    return shatter_findings(pd.DataFrame(rows), pd.DataFrame(acf), width, families)


def fit(statistic: str, value: float, sem: float, theory: float = math.nan) -> dict[str, Any]:
    return {"statistic": statistic, "value": value, "sem": sem, "theory": theory}


FITS = [fit("decay_exponent", -0.67, 0.02, -0.65), fit("pair_decay_exponent", -0.88, 0.02)]
SHATTER: dict[str, tuple[Callable[[], Sentences], list[str], list[str]]] = {
    "residual above feedforward": (
        lambda: shatter({"ff": (0.0, 0.02, 20, 32), "resnet": (0.59, 0.02, 20, 32)}),
        ["in resnet, larger"],
        ["not told"],
    ),
    "two seeds": (
        lambda: shatter({"ff": (0.0, 0.02, 2, 32), "resnet": (0.1, 0.02, 2, 32)}),
        ["in resnet, not told apart"],
        ["larger", "smaller"],
    ),
    "one seed": (
        lambda: shatter({"ff": (0.0, math.nan, 1, 32), "resnet": (0.6, math.nan, 1, 32)}),
        ["0.600 in resnet"],
        ["larger", "nan"],
    ),
    "all nets constant": (
        lambda: shatter({"ff": (1.0, 0.0, 5, 32), "resnet": (1.0, 0.0, 5, 32)}, constant=5),
        ["all constant, which counts as 1"],
        ["larger", "shatter as"],
    ),
    "dead nets without normalization": (
        lambda: shatter({"ff-norm=none": (0.95, 0.01, 20, 32)}, constant=12),
        ["12 of 20 constant", "nothing can be told of shattering"],
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
        ["so few nets do not tell"],
        ["does not shatter"],
    ),
    "width 1": (
        lambda: shatter({"ff-norm=none": (0.9, 0.01, 20, 24)}, width=1, fits=FITS),
        ["Of 1 neuron a layer nothing is held against the laws"],
        ["does not shatter", "coin"],
    ),
    "width 2": (
        lambda: shatter({"resnet": (0.9, 0.01, 20, 24)}, width=2, fits=FITS),
        ["Of 2 neurons a layer"],
        ["coin"],
    ),
    "fits by name": (
        lambda: shatter({"resnet": (0.6, 0.01, 20, 64)}, fits=FITS),
        ["fixed pair falls as L^p with p = -0.880", "average pair as L^p with p = -0.670", "not told apart"],
        ["agrees"],
    ),
    "a fit off its law": (
        lambda: shatter({"resnet": (0.6, 0.01, 20, 64)}, fits=[fit("decay_exponent", -0.5, 0.01, -0.65)]),
        ["the measured fall is slower"],
        ["not told apart", "fixed pair"],
    ),
    "a fit of one seed": (
        lambda: shatter({"resnet": (0.6, math.nan, 1, 64)}, fits=[fit("decay_exponent", -0.5, math.nan, -0.65)]),
        ["with so few seeds nothing can be told"],
        ["slower", "nan"],
    ),
}


# Gradients and noise scales.


def net(network: str, ratio: float, growth: float = 1.3, error: float = 0.01, seeds: int = 5, **more: Any) -> Any:
    factor = math.nan if seeds == 1 else 1 + error
    row = {"network": network, "weights": "init", "BN": "batch", "depth": 20, "first / last": ratio, "×/÷": factor}
    row |= {"growth a layer": growth, "±": error, "theory": 1.41, "claim": "batch norm", "seeds": seeds}
    return row | more


def gradients(*rows: dict[str, Any], **facts: Any) -> Sentences:
    known = [facts | {"network": row["network"]} for row in rows]
    return gradient_findings(pd.DataFrame(rows), with_descriptions(known))


def noise(variance: list[float], square: list[float], examples: int = 128) -> Sentences:
    rows = pd.DataFrame({"variance": variance, "gradient_square": square, "examples": examples})
    return noise_findings({"net": rows})


PAIR = (net("plain20", 10.0), net("resnet20", 1.0, claim=None))
TRAINED = tuple({**row, "weights": "trained", "claim": None} for row in PAIR)
GRADIENTS: dict[str, tuple[Callable[[], Sentences], list[str], list[str]]] = {
    "plain against residual": (lambda: gradients(*PAIR), ["which is smaller", "less than in theory, 1.410"], []),
    "one seed of each": (
        lambda: gradients(net("plain20", 10.0, seeds=1), net("resnet20", 1.0, seeds=1)),
        ["so few seeds tell nothing", "tell nothing of theory"],
        ["smaller", "agrees", "nan"],
    ),
    "two seeds beside theory": (
        lambda: gradients(net("plain20", 10.0, 0.963, 0.169, seeds=2)),
        ["not told from theory"],
        ["agrees", "less than"],
    ),
    "far from theory": (
        lambda: gradients(net("plain56", 10.0, 1.265, 0.001)),
        ["less than in theory"],
        ["makes it explode", "errors off"],
    ),
    "equal ratios": (
        lambda: gradients(net("plain20", 2.0), net("resnet20", 2.0)),
        ["the two are not told apart"],
        ["which is"],
    ),
    "no growth": (lambda: gradients(net("plain8", 2.0, math.nan, math.nan)), [], ["nan", "theory"]),
    "trained by one recipe": (lambda: gradients(*TRAINED, recipe="r"), ["which is smaller"], []),
    "trained by unknown recipes": (lambda: gradients(*TRAINED, recipe=None), [], ["At 20 layers"]),
    "trained, near chance": (lambda: gradients(*TRAINED, recipe="r", near_chance=True), [], ["At 20 layers"]),
    "trained against initial": (lambda: gradients(TRAINED[0], PAIR[1], recipe="r"), [], ["At 20 layers"]),
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
}


# Degradation and images.


def trained(errors: dict[str, float], images: int = 50_000, classes: int = 10, **keys: str) -> Sentences:
    return degradation_findings(
        with_descriptions(
            {"network": name, "error": error, "images": images, "key": keys.get(name, "k"), "classes": classes}
            for name, error in errors.items()
        )
    )


def images(nets: dict[str, tuple[float, float]], units: int = 4, facts: Any = None, spread: float = 0.002) -> Sentences:
    """Of networks with their relative effective rank and lag 1."""
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
OTHERS: dict[str, tuple[Callable[[], Sentences], list[str], list[str]]] = {
    "degradation": (
        lambda: trained({"plain20": 0.1, "plain56": 0.2, "plain110": 0.3}),
        ["deeper nets train worse"],
        ["no trend"],
    ),
    "few images": (
        lambda: trained({"plain20": 0.1, "plain56": 0.12}, images=500),
        ["no trend over depth can be told"],
        ["worse"],
    ),
    "up and down": (
        lambda: trained({"plain20": 0.1, "plain56": 0.15, "plain110": 0.12}),
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
    "equal errors": (lambda: trained({"plain20": 0.1, "resnet20": 0.1}), ["not to be told from"], ["lower", "higher"]),
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
        ["are not told apart"],
        ["nearer"],
    ),
    "one batch": (
        lambda: images({"plain20@init": (0.9, 0.1), "resnet20@init": (0.5, 0.6)}, units=1),
        ["Nothing can be told"],
        ["nearer", "nan"],
    ),
    "images, one recipe": (
        lambda: images({"plain20": (0.9, 0.1), "resnet20": (0.5, 0.6)}, facts={"plain20": KNOWN, "resnet20": KNOWN}),
        ["nearer to noise", "Near the rank of noise at 100 images a batch: plain20 (0.900)."],
        ["resnet20 (0.500)"],
    ),
    "images, other recipes": (
        lambda: images(
            {"plain20": (0.9, 0.1), "resnet20": (0.5, 0.6)},
            facts={"plain20": KNOWN, "resnet20": KNOWN | {"recipe": "s"}},
        ),
        [],
        ["nearer"],
    ),
    "images, near chance": (
        lambda: images(
            {"plain20": (0.9, 0.1), "resnet20": (0.5, 0.6)},
            facts={"plain20": KNOWN, "resnet20": KNOWN | {"near_chance": True}},
        ),
        [],
        ["nearer"],
    ),
}

REGIMES = {
    f"{part}: {name}": regime
    for part, regimes in (
        ("responses", RESPONSES), ("shatter", SHATTER), ("gradients", GRADIENTS), ("others", OTHERS)
    )
    for name, regime in regimes.items()
}  # fmt: skip


def test_there_are_enough_regimes() -> None:
    assert len(REGIMES) >= 48


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
def test_says_and_does_not_say(regime: tuple[Callable[[], Sentences], list[str], list[str]]) -> None:
    make, says, not_says = regime
    found = make()
    said = " ".join(found)
    for words in says:
        assert words in said
    for words in not_says:
        assert words not in said
    for finding in found:
        assert finding[0].isupper() or finding[:4] in ("net:", "ff-n", "resn", "plai")
        assert finding.endswith(".")
        assert rule_of(finding).endswith(".")


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


def test_a_gradient_of_rounding_has_no_ratio_and_no_growth() -> None:
    rows = [
        {"seed": 0, "index": i, "call": 1, "kind": "linear", "numel": 9, "theory": 1.0, "grad_norm": 1e-18 * i}
        for i in range(1, 6)
    ]
    row = summary_row(pd.DataFrame(rows).assign(float32_error=3e8), "grad_norm", {"network": "net"})
    assert all(math.isnan(row[name]) for name in ("first / last", "growth a layer", "float32 off by"))
    row = summary_row(pd.DataFrame(rows).assign(float32_error=0.3), "grad_norm", {"network": "net"})
    assert row["first / last"] == pytest.approx(1 / 5)
