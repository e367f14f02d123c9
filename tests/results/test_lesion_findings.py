"""What is said of lesions: at a stated rate of false alarms, and with the numbers of the frames."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradlab.results.lesion.findings import findings
from gradlab.results.lesion.result import LesionResult

IMAGES = 200
NO_PATHS = LesionResult(pd.DataFrame()).paths_frame


def facts(name: str, kind: str, increases: np.ndarray) -> dict[str, Any]:
    return {
        "network": name,
        "recipe": "one",
        "trained": True,
        "description": {"kind": kind},
        "part": "layer" if kind == "plain" else "residual module",
        "images": IMAGES,
        "increase": increases.mean(),
        "increase_sem": increases.std(ddof=1) / IMAGES**0.5,
    }


def frame(name: str, error: float) -> pd.DataFrame:
    rows = [{"study": "intact", "error": 0.1, "block": "", "branch": ""}]
    rows += [{"study": "delete", "error": error, "block": f"b{i}", "branch": "", "index": i + 1} for i in range(2)]
    return pd.DataFrame(rows).assign(network=name, resized=pd.NA, count=1)


def increases(draw: np.random.Generator, mean: float) -> np.ndarray:
    """Per image: most do not change, and a few become wrong, or right, under most deletions."""
    changed = draw.random(IMAGES) < 0.2
    return changed * (draw.choice([-1.0, 1.0], IMAGES) * draw.random(IMAGES) + mean)


def test_false_alarms_are_as_rare_as_stated() -> None:
    draw, alarms, trials = np.random.default_rng(0), 0, 300
    frames = pd.concat([frame("plain", 0.1), frame("resnet", 0.1)])
    for _ in range(trials):
        networks = [facts("plain", "plain", increases(draw, 0)), facts("resnet", "residual", increases(draw, 0))]
        said = findings(frames, NO_PATHS, networks)
        alarms += any(
            " changes the error" in sentence or " more than " in sentence or " less than " in sentence
            for sentence in said
        )
    # Two groups of comparisons, at 1 % each; four standard errors of the simulation.
    assert alarms / trials < 0.02 + 4 * (0.02 * 0.98 / trials) ** 0.5


@pytest.mark.parametrize(
    ("increase", "error", "images", "words"),
    [
        (1 / 3, float("nan"), 1, "by 33.33 percentage points on average, without"),
        (1.0, 0.0, 9, "by 100.00 percentage"),
    ],
)
def test_images_that_do_not_differ_tell_no_significance(increase: float, error: float, images: int, words: str) -> None:
    one = facts("resnet", "residual", np.zeros(IMAGES)) | {
        "increase": increase,
        "increase_sem": error,
        "images": images,
    }
    (said,) = findings(frame("resnet", 0.9), NO_PATHS, [one])
    assert words in said
    assert "significantly" not in said


def test_what_is_said() -> None:
    draw = np.random.default_rng(1)
    networks = [facts("plain", "plain", 0.8 + increases(draw, 0)), facts("resnet", "residual", increases(draw, 0))]
    both = pd.concat([frame("plain", 0.9), frame("resnet", 0.12)])
    said = findings(both, NO_PATHS, networks)
    assert "Deleting a layer of plain raises the error more than deleting a residual module of resnet" in said[0]
    assert any("plain: deleting one layer of 2 changes the error of 10.0%" in sentence for sentence in said)
    assert any(
        "resnet: deleting one residual module of 2 does not significantly change" in sentence for sentence in said
    )
    other = [networks[0], {**networks[1], "recipe": "another"}]
    assert not any("more than deleting" in sentence for sentence in findings(both, NO_PATHS, other))
    near = [{**networks[0], "near_chance": True}]
    assert findings(frame("plain", 0.9), NO_PATHS, near) == []


@pytest.mark.parametrize(
    ("parts", "errors", "words", "intervals"),
    [(1, [0.4], "with 1 random part deleted, the error is 40.0 %.", False), (2, [0.4, 0.5], "2 random parts", True)],
)
def test_one_random_choice_has_no_interval(parts: int, errors: list[float], words: str, intervals: bool) -> None:
    (said,) = findings(
        pd.DataFrame({"network": "n", "study": "several", "count": parts, "error": errors}), NO_PATHS, []
    )
    assert words in said
    assert (" to " in said, "Intervals" in said.rule) == (intervals, intervals)


@pytest.mark.parametrize("slope", [0.0, -80.0])
def test_orders_are_compared_by_the_slope(slope: float) -> None:
    draw = np.random.default_rng(2)
    tau = np.linspace(0.7, 1, 20)
    error = (20 + slope * (tau - 1) + draw.normal(0, 1, 20)) / 100
    rows = pd.DataFrame({"network": "n", "study": "reorder", "tau": tau, "error": error})
    (sentence,) = findings(rows, NO_PATHS, [])
    assert ("the error falls by 8" in sentence) if slope else ("does not significantly fall" in sentence)


@pytest.mark.parametrize(("resized", "said"), [(True, "without b0 (which changes the shape)."), (False, "without b0.")])
def test_the_worst_deletion_is_told_with_what_it_does_to_the_shape(resized: bool, said: str) -> None:
    both = frame("n", 0.9).assign(resized=pd.array([None, resized, not resized], dtype="boolean"))
    both.loc[2, "error"] = 0.2
    (sentence,) = findings(both, NO_PATHS, [facts("n", "residual", np.linspace(0, 1, IMAGES))])
    assert sentence.endswith(said)


def paths(norms: np.ndarray) -> pd.DataFrame:
    """Sampled paths of one network, from norms by sample and length."""
    sample, length = np.indices(norms.shape)
    values = {"length": length, "sample": sample, "gradient_norm": norms}
    return pd.DataFrame({name: each.ravel() for name, each in values.items()}).assign(network="n")


def test_branches_without_a_gradient_have_no_rate() -> None:
    """As where the last gain of every branch is initialized with 0."""
    norms = np.zeros((5, 9))
    norms[:, 0] = range(1, 6)
    carried, rate = findings(pd.DataFrame(columns=["network", "study"]), paths(norms), [])
    assert "paths through 0 to 0 of 8 residual modules" in carried
    assert "has no rate per residual module" in rate
    assert "nan" not in rate


def test_effective_paths_are_those_of_a_jackknife_and_a_regression_by_scipy() -> None:
    samples, modules = 7, 6
    norms = np.exp(-0.4 * np.arange(modules + 1) + np.random.default_rng(1).normal(0, 0.3, (samples, modules + 1)))
    counts = stats.binom(modules, 0.5).pmf(np.arange(modules + 1))

    def depth(sampled: np.ndarray) -> float:
        return float(np.average(np.arange(modules + 1), weights=counts * sampled.mean(0)))

    left_out = [depth(np.delete(norms, place, 0)) for place in range(samples)]
    error = ((samples - 1) * np.var(left_out)) ** 0.5
    slopes = [stats.linregress(np.arange(modules + 1), np.log(sampled)).slope for sampled in norms]
    carried, rate = findings(pd.DataFrame(columns=["network", "study"]), paths(norms), [])
    low, high = stats.t.interval(0.95, samples - 1, depth(norms), error)
    assert f"the effective depth is {depth(norms):.1f} ({low:.1f} to {high:.1f}) modules" in carried
    low, high = np.exp(stats.t.interval(0.95, samples - 1, np.mean(slopes), stats.sem(slopes)))
    assert f"by a factor of {np.exp(np.mean(slopes)):.3g} ({low:.3g} to {high:.3g}) per residual module" in rate


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([1.0] * 20, "the error is 100.0% in all 20 random orders of blocks, down to a Kendall tau of 0.72"),
        ([0.625], "with blocks in an order of Kendall tau 0.91, the error is 62.5%"),
    ],
)
def test_orders_without_a_slope_are_told_as_they_are(errors: list[float], words: str) -> None:
    """Rounding once made a slope of 20 equal errors, and one order was told by no sentence."""
    rows = [{"study": "reorder", "error": error, "tau": 0.91 - 0.01 * i} for i, error in enumerate(errors)]
    (said,) = findings(pd.DataFrame(rows).assign(network="net"), NO_PATHS, [])
    assert words in said
