"""The rules for outlying layers and steps: planted values are found, and false findings are rare."""

import numpy as np
import pandas as pd
import pytest
import torch

import gradlab as gl
from gradlab.results.dynamics.findings import seen
from gradlab.results.dynamics.growth import growth
from gradlab.results.dynamics.rules import out_of_line, spikes
from gradlab.results.dynamics.seen import RULES, Seen
from gradlab.results.dynamics.tables import Table
from gradlab.results.finding import rule_of

LAYERS = [f"layer{number}" for number in range(1, 21)]


def records(values: dict[str, np.ndarray], totals: dict[str, np.ndarray] | None = None) -> pd.DataFrame:
    """Rows of statistics from arrays of shape (steps, layers), and (steps,) for the whole model."""
    rows = [
        {"step": step, "layer": LAYERS[place], "index": place + 1, "statistic": statistic, "value": value}
        for statistic, table in values.items()
        for step, line in enumerate(table)
        for place, value in enumerate(line)
    ]
    rows += [
        {"step": step, "layer": "total", "index": 0, "statistic": statistic, "value": value}
        for statistic, series in (totals or {}).items()
        for step, value in enumerate(series)
    ]
    return pd.DataFrame(rows).assign(block="", network="net")


def noisy(steps: int, layers: int, seed: int = 0, spread: float = 0.2) -> np.ndarray:
    """Log-normal values about 1."""
    return np.exp(spread * np.random.default_rng(seed).standard_normal((steps, layers)))


def kinds(frame: pd.DataFrame) -> list[tuple[str, int, str]]:
    return [(one.kind, one.step, one.layer) for one in seen(frame)]


def test_a_healthy_run_has_no_finding_in_99_of_100_cases() -> None:
    """Layers that differ by factors, and that drift and fluctuate as in training."""
    alarms = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        drift = np.exp(0.05 * draw.standard_normal((60, 20)).cumsum(0) + draw.standard_normal(20))
        values = {name: drift * noisy(60, 20, seed) for name in ("grad_norm", "response_std")}
        values |= {"update_ratio": 1e-3 * drift, "dead_units": 0.1 * noisy(60, 20, seed)}
        series = np.exp(0.05 * draw.standard_normal(60).cumsum() + 0.2 * draw.standard_normal(60))
        alarms += bool(seen(records(values, {"loss": series, "grad_norm": 3 * series})))
    assert alarms <= 1


@pytest.mark.parametrize("rate", [0.3, 0.6, 1.7, 3.0])
def test_the_rate_of_growth_is_found(rate: float) -> None:
    values = rate ** np.arange(20) * noisy(1, 20)[0]
    line = growth(values)
    assert line is not None
    assert line.rate == pytest.approx(rate, rel=0.05)
    assert growth(1.1 ** np.arange(20) * noisy(1, 20)[0]) is None
    # An exact line has no residuals from which to estimate an error.
    exact = growth(rate ** np.arange(20.0))
    assert exact is not None
    assert exact.rate == pytest.approx(rate)


def test_undecidable_cases_have_no_finding() -> None:
    assert growth(np.array([1.0, 1e6])) is None
    assert growth(np.array([np.nan, np.inf, 0.0, 1.0, 1e9])) is None
    assert out_of_line(np.array([1.0, 1.0, 1e9]), 10) == []
    assert spikes(np.array([1.0, 1.0, 1e9, 1.0])) == []


def test_vanishing_gradients_have_a_rate_and_a_beginning() -> None:
    healthy, vanished = noisy(5, 20), 0.4 ** np.arange(19, -1, -1) * noisy(5, 20, 1)
    (one,) = seen(records({"grad_norm": np.concatenate([healthy, vanished])}))
    assert (one.kind, one.step, one.layer) == ("gradient", 5, "layer1")
    assert "vanish towards the input, by a factor of 0.4" in one.sentence
    (one,) = seen(records({"grad_norm": 3.0 ** np.arange(19, -1, -1) * noisy(1, 20)}))
    assert "explode towards the input, by a factor of 3" in one.sentence


def test_gradients_of_exactly_0_do_not_count_as_small() -> None:
    values = noisy(6, 20)
    values[2:, :7] = 0
    (one,) = seen(records({"grad_norm": values}))
    assert (one.kind, one.step, one.layer) == ("zero gradient", 2, "layer7")
    assert "in layer7 and all 6 layers before it" in one.sentence
    (two,) = seen(records({"grad_norm": np.where(np.arange(20) < 2, 0, noisy(6, 20))}))
    assert "in layer2 and the layer before it, since" in two.sentence
    result = gl.DynamicsResult(records({"grad_norm": values}), {"networks": [{"network": "net"}]})
    assert result.summary()["smallest"].tolist() == [0.0]


def test_layers_that_run_without_a_gradient() -> None:
    """Those that an optimizer steps, by a weight without a gradient; a frozen layer has no weight in a record."""
    values = {name: noisy(6, 20) for name in ("grad_norm", "weight_norm", "response_max")}
    frame = records(values)
    layer, step, statistic = frame["layer"], frame["step"], frame["statistic"]
    frozen = frame[~((layer == "layer4") & statistic.isin(["grad_norm", "weight_norm"]))]
    assert not seen(frozen)
    # An expert that no token was sent to.
    idle = frame[~((layer == "layer4") & statistic.isin(["grad_norm", "response_max"]) & (step == 5))]
    assert not seen(idle)
    cut = frame[~(layer.isin(LAYERS[:3]) & (statistic == "grad_norm") & (step > 1))]
    (one,) = seen(cut)
    assert (one.kind, one.step, one.layer) == ("no gradient", 2, "layer3")
    assert one.sentence == ("no gradient arrives in layer3 and all 2 layers before it, since step 2 of those recorded.")
    (one,) = seen(frame[~(layer.isin(["layer2", "layer7"]) & (statistic == "grad_norm"))])
    assert "in 2 of 20 layers, the last of them layer7, since step 0" in one.sentence
    # Nor is one told where no gradients were recorded, or where the last of them are no numbers.
    assert not seen(frame[statistic != "grad_norm"])
    frame.loc[(step == 5) & (statistic == "grad_norm"), "value"] = np.nan
    assert kinds(frame) == [("non-finite", 5, "layer20")]


def test_a_step_without_the_gradient_of_its_backward_pass() -> None:
    values = {name: noisy(6, 20) for name in ("grad_norm", "weight_norm")}
    totals = {"loss": np.ones(6), "grad_norm": np.ones(6), "grad_norm_clipped": np.ones(6)}
    frame = records(values, totals)
    assert not seen(frame)
    gone = frame[~(frame["statistic"].str.startswith("grad_norm") & (frame["step"] >= 4))]
    zero = records(values, totals | {"grad_norm_clipped": np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])})
    for cleared in (gone, zero):
        (one,) = seen(cleared)
        assert (one.kind, one.step) == ("cleared", 4)
        assert one.sentence.startswith(
            "the optimizer is given no gradient but 0, since step 4 of those recorded, though"
        )
    # Without a backward pass, before the last record, or where the gradient itself is 0, it is no news.
    assert not seen(gone[gone["statistic"] != "loss"])
    assert not seen(records(values, totals | {"grad_norm_clipped": np.array([1.0, 1.0, 1.0, 1.0, 0.0, 1.0])}))
    assert not seen(records(values, totals | dict.fromkeys(["grad_norm", "grad_norm_clipped"], np.zeros(6))))


def test_a_tied_weight_is_no_end_of_a_line() -> None:
    """Embeddings that are the head as well: their gradient is the sum of both uses, and of no one depth."""
    values = 0.4 ** np.arange(19, -1, -1) * noisy(3, 20)
    values[:, 0] = values[:, -1]
    (one,) = seen(records({"grad_norm": values}))
    assert (one.kind, one.layer) == ("gradient", "layer2")
    ends = f"{values[-1, 1]:.3g} in layer2 to {values[-1, -2]:.3g} in layer19 at step 2"
    assert ends in one.sentence
    table = Table.of(records({"grad_norm": np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]])}), "grad_norm")
    assert table is not None
    assert np.array_equal(table.without_copies().values, table.values)


def test_how_far_layers_differ_at_one_record_and_in_one_layer() -> None:
    def told(frame: pd.DataFrame) -> list[str]:
        return gl.DynamicsResult(frame, {"networks": [{"network": "net"}]}).findings()

    values = np.array([[1.0, 2.0, 8.0]])
    (one,) = told(records({"grad_norm": values}))
    assert one == (
        "net: gradient norms of the layers differ by a factor 8 at step 0 (smallest in layer1, largest in layer3); "
        "their median is 2."
    )
    assert told(records({"grad_norm": values[:, :1]})) == []


def test_growing_responses_and_a_jump() -> None:
    (one,) = seen(records({"response_std": 4.9 * 18.0 ** np.arange(20) * noisy(1, 20)}))
    assert (one.kind, one.layer) == ("response", "layer1")
    assert "grow with depth, by a factor of 1" in one.sentence
    values = noisy(3, 20)
    values[:, 8:] *= 100
    found = seen(records({"response_std": values}))
    assert ("jump", 2, "layer9") in [(o.kind, o.step, o.layer) for o in found]


def test_growth_before_a_nan_is_not_forgotten() -> None:
    """The run that the rule was made for: stds from 4.9 to 8e30 over 60 layers, and then no numbers at all."""
    exploded = np.geomspace(4.9, 8e30, 20)
    frame = records({"response_std": np.stack([exploded, np.full(20, np.nan)]), "grad_norm": np.full((2, 20), np.nan)})
    found = {one.kind: one for one in seen(frame)}
    assert (found["response"].step, found["response"].layer) == (0, "layer1")
    assert "4.9 in layer1 to 8e+30 in layer20 at step 0" in found["response"].sentence
    # The same within the step that has lost its numbers.
    partly = np.where(np.arange(20) < 12, exploded, np.nan)
    assert "response" in {one.kind for one in seen(records({"response_std": np.stack([noisy(1, 20)[0], partly])}))}


def test_growth_at_some_steps_alone_says_at_which() -> None:
    values = noisy(8, 20)
    values[3] *= 3.0 ** np.arange(20)
    (one,) = seen(records({"response_std": values}))
    assert (one.kind, one.step) == ("response", 3)
    assert one.sentence.endswith("at step 3, and at no later one of those recorded.")
    values[4] *= 3.0 ** np.arange(20)
    assert "from step 3 to 4 of those recorded, and not after" in seen(records({"response_std": values}))[0].sentence


def test_a_vanished_gradient_is_0_at_the_end_of_the_line() -> None:
    values = 1e-42 * 10.0 ** (2.2 * np.arange(20)) * noisy(1, 20)
    values[:, :6] = 0
    found = {one.kind: one for one in seen(records({"grad_norm": values}))}
    assert f": 0 in layer1 to {values[0, -1]:.3g} in layer20 at step 0" in found["gradient"].sentence
    assert "e-42" not in " ".join(one.sentence for one in found.values())


@pytest.mark.parametrize(("statistic", "kind"), [("dead_units", "dead"), ("saturated_fraction", "saturated")])
def test_dead_and_saturated_layers(statistic: str, kind: str) -> None:
    values = 0.1 * noisy(6, 20)
    values[3:, 4] = values[4:, 11] = 0.9
    assert kinds(records({statistic: values})) == [(kind, 3, "layer5")]


def test_an_outlying_update() -> None:
    values = 1e-3 * noisy(12, 20)
    values[:, 13] *= 200
    assert kinds(records({"update_ratio": values})) == [("update", 11, "layer14")]


def test_clipping_that_leaves_nothing_of_the_gradient() -> None:
    norms = noisy(20, 1)[:, 0]
    clipped = {"grad_norm": norms, "grad_norm_clipped": np.minimum(norms, 1e-6)}
    (one,) = seen(records({}, clipped))
    assert (one.kind, one.step, one.layer) == ("clipping", 19, "total")
    middle = np.median(norms[-10:])
    assert one.sentence == (
        f"clipping divides the gradient by {middle / 1e-6:.3g}: its norm is {middle:.3g} before and 1e-06 as the "
        "optimizer is given it (medians of the last 10 records)."
    )
    # Usual clipping, gradients of 0, a scale that the loop divides out by itself, and too few records are none.
    assert not seen(records({}, clipped | {"grad_norm_clipped": np.minimum(norms, 0.01)}))
    assert not seen(records({}, clipped | {"grad_norm_clipped": 0 * norms}))
    assert not seen(records({}, clipped | {"grad_norm_clipped": norms / 65536}))
    assert not seen(records({}, {name: series[:2] for name, series in clipped.items()}))


@pytest.mark.parametrize("largest", [1e-6, 1.0])
def test_clipping_in_a_loop(largest: float) -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(8, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gl.watch(net, optimizer, every=1) as watch:
        for _ in range(4):
            optimizer.zero_grad()
            net(torch.randn(16, 8)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), largest)
            optimizer.step()
    told = [finding for finding in watch.result().findings() if "clipping" in finding]
    assert len(told) == (largest < 1)


def test_a_spike_has_a_step_a_layer_and_a_direction() -> None:
    gradients, responses, total = noisy(40, 20), noisy(40, 20, 1), noisy(40, 1, 2)[:, 0]
    total[30:32] *= 50
    gradients[30, :12] *= 50
    (one,) = seen(records({"grad_norm": gradients, "response_std": responses}, {"grad_norm": total}))
    assert (one.kind, one.step, one.layer) == ("spike", 30, "layer12")
    assert "came backward" in one.sentence
    responses[30, 5:] *= 10
    (one,) = seen(records({"grad_norm": gradients, "response_std": responses}, {"grad_norm": total}))
    assert (one.kind, one.step, one.layer) == ("spike", 30, "layer6")
    assert "came forward" in one.sentence


def test_a_non_finite_value_is_one_finding_with_the_first_layer() -> None:
    responses, gradients = noisy(6, 20), noisy(6, 20)
    responses[4, 9:] = np.nan
    responses[5:] = gradients[4:] = np.nan
    dead = 0.1 * noisy(6, 20)
    dead[4:] = 1.0
    frame = records({"response_max": responses, "grad_norm": gradients, "dead_units": dead})
    assert kinds(frame) == [("non-finite", 4, "layer10")]
    frame = records({"response_max": noisy(6, 20), "grad_norm": np.where(np.arange(20) < 15, gradients, noisy(6, 20))})
    (one,) = seen(frame)
    assert (one.kind, one.step, one.layer) == ("non-finite", 4, "layer15")
    assert "responses are finite" in one.sentence


def test_findings_have_a_rule_and_a_network() -> None:
    values = noisy(6, 20)
    values[2:, :7] = 0
    result = gl.DynamicsResult(records({"grad_norm": values}), {"networks": [{"network": "net"}]})
    (finding,) = result.findings()
    assert finding.startswith("net: the gradient is exactly 0")
    assert RULES["zero gradient"] in rule_of(finding)
    assert Seen("dead", 0, "x", "s").as_finding("n") == "n: s"


def test_a_table_is_in_the_order_of_execution() -> None:
    frame = records({"grad_norm": noisy(2, 3)}).sample(frac=1.0, random_state=0)
    table = Table.of(frame, "grad_norm")
    assert table is not None
    assert (table.steps, table.layers) == ([0, 1], LAYERS[:3])
    assert np.array_equal(table.values, noisy(2, 3))
    assert Table.of(frame, "loss") is None


def test_the_noise_scale_of_known_gradients() -> None:
    """Micro-batches with tr(Σ) = 6 and |G|² = 2, so that three of them have as much noise as signal."""
    draw = np.random.default_rng(0)
    totals = {"gradient_variance": 6 + draw.standard_normal(400), "gradient_square": 2 + draw.standard_normal(400)}
    result = gl.DynamicsResult(records({}, totals), {"networks": [{"network": "net"}]})
    scale = result.noise_scale(examples=32)
    assert scale.low < 96 < scale.high
    assert scale.high - scale.low < 20
    (told,) = [finding for finding in result.findings() if "noise" in finding]
    assert told.startswith("net: the noise scale is 3")
    assert "McCandlish" in rule_of(told)
    totals["gradient_square"] -= 2
    (told,) = gl.DynamicsResult(records({}, totals), {"networks": [{"network": "net"}]}).findings()
    assert told.startswith("net: the noise scale is unresolved")
    with pytest.raises(gl.UsageError, match="noise was not recorded"):
        gl.DynamicsResult(records({"grad_norm": noisy(2, 3)}), {"networks": [{"network": "net"}]}).noise_scale()


@pytest.mark.parametrize("statistic", ["grad_norm", "update_cosine", "dead_units", "response_std"])
def test_a_watch_is_drawn_without_error_curves(statistic: str) -> None:
    frame = records({statistic: noisy(6, 20), "grad_norm": noisy(6, 20)}, {"loss": noisy(6, 1)[:, 0]})
    result = gl.DynamicsResult(frame.assign(block=frame["layer"].str[:6]), {"networks": [{"network": "net"}]})
    result.drawn = (statistic,)
    figure = result.figure()
    figure.draw_without_rendering()
    heat, below = figure.axes[:2]
    assert heat.collections[0].get_array().shape == (20, 6)
    assert [text.get_text() for text in heat.get_yticklabels()] == LAYERS
    assert below.get_ylabel() == "loss"
