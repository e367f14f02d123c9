"""Where two runs part: bit by bit, beyond noise at the stated rate of false alarms, and in words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.results.compare_runs.departure import departures
from gradlab.results.finding import rule_of

LAYERS, RECORDS = 10, 80
Noise = Callable[[np.random.Generator, int, int], np.ndarray]


def autoregressive(memory: float) -> Noise:
    """Normal noise whose records are correlated."""

    def draw(rng: np.random.Generator, records: int, layers: int) -> np.ndarray:
        noise = rng.standard_normal((records, layers))
        for record in range(1, records):
            noise[record] = memory * noise[record - 1] + np.sqrt(1 - memory**2) * noise[record]
        return noise

    return draw


def bursts(rng: np.random.Generator, records: int, layers: int) -> np.ndarray:
    """One record in twenty has five times the noise, in all layers."""
    return rng.standard_normal((records, layers)) * np.where(rng.random((records, 1)) < 0.05, 5, 1)


NOISES: dict[str, Noise] = {
    "independent": lambda rng, records, layers: rng.standard_normal((records, layers)),
    "heavy-tailed": lambda rng, records, layers: rng.standard_t(3, (records, layers)) / 1.7,
    "correlated": autoregressive(0.9),
    "slow": autoregressive(0.99),
    "drifting": lambda rng, records, layers: 0.2 * rng.standard_normal((records, layers)).cumsum(0),
    "common": lambda rng, records, layers: rng.standard_normal((records, 1)) + 0.5 * rng.standard_normal((1, layers)),
    "growing": lambda rng, records, layers: (
        rng.standard_normal((records, layers)) * np.linspace(1, 5, records)[:, None]
    ),
    "louder": lambda rng, records, layers: (
        rng.standard_normal((records, layers)) * np.where(np.arange(records) > records / 2, 5, 1)[:, None]
    ),
    "bursts": bursts,
}


def two_seeds(
    noise: Noise, rng: np.random.Generator, records: int, layers: int, size: float = 0.13
) -> list[np.ndarray]:
    """Logarithms of a statistic of two runs: one course with a jump, as of the rate, an offset of layers, and noise."""
    course = (
        0.02 * rng.standard_normal((records, 1)).cumsum(0) - np.where(np.arange(records) > 0.6 * records, 1, 0)[:, None]
    )
    spread = size * np.exp(0.3 * rng.standard_normal(layers))
    return [course + 0.15 * rng.standard_normal(layers) + spread * noise(rng, records, layers) for _ in range(2)]


def false_alarms(name: str, pairs: int, records: int, layers: int) -> int:
    rng = np.random.default_rng(sum(map(ord, name)))
    runs = (two_seeds(NOISES[name], rng, records, layers) for _ in range(pairs))
    return sum(bool(departures(*run, np.log10(2), 0.01)) for run in runs)


def test_two_seeds_part_in_at_most_1_of_100_cases() -> None:
    assert sum(false_alarms(name, 40, RECORDS, LAYERS) for name in NOISES) <= 4


@pytest.mark.thorough
@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize(("records", "layers"), [(40, 20), (300, 20), (2000, 4)])
def test_the_rate_of_false_alarms_at_length(name: str, records: int, layers: int) -> None:
    """Two standard errors above 1 % at most."""
    assert false_alarms(name, 300, records, layers) <= 6


@pytest.mark.parametrize("name", ["independent", "correlated", "heavy-tailed"])
def test_a_planted_difference_has_its_step_and_its_layer(name: str) -> None:
    """A layer that is 30 times as large from a record on; noise of 15 % of the value."""
    rng, right, wrong = np.random.default_rng(1), 0, 0
    for _ in range(20):
        one, other = two_seeds(NOISES[name], rng, RECORDS, LAYERS, 0.065)
        record, layer = int(rng.integers(30, 60)), int(rng.integers(LAYERS))
        other[record:, layer] += 1.5
        found = departures(one, other, np.log10(2), 0.01)
        right += [(part.column, abs(part.record - record) <= 1) for part in found] == [(layer, True)]
        wrong += any(part.column != layer for part in found)
    assert right >= 18
    assert wrong == 0


def test_a_small_difference_is_told_from_small_noise() -> None:
    rng = np.random.default_rng(2)
    one, other = (0.01 * rng.standard_normal((RECORDS, LAYERS)) for _ in range(2))
    other[50:, 3] += np.log10(2.5)
    (found,) = departures(one, other, np.log10(2), 0.01)
    assert (found.record, found.column) == (50, 3)
    assert found.before == pytest.approx(0, abs=0.01)
    assert -found.after == pytest.approx(np.log10(2.5), abs=0.02)


def run_of(values: dict[str, np.ndarray], name: str = "net", every: int = 10) -> gl.DynamicsResult:
    """A run from arrays of shape (records, layers); one column is the whole model."""
    frames = []
    for statistic, table in values.items():
        records, layers = table.shape
        names = ["total"] if layers == 1 else [f"layer{place + 1}" for place in range(layers)]
        frames.append(
            pd.DataFrame(
                {
                    "network": name,
                    "step": np.repeat(every * np.arange(records), layers),
                    "layer": np.tile(names, records),
                    "index": np.tile([0] if layers == 1 else np.arange(1, layers + 1), records),
                    "block": "",
                    "statistic": statistic,
                    "value": table.ravel(),
                }
            )
        )
    return gl.DynamicsResult(pd.concat(frames, ignore_index=True), {"networks": [{"network": name}]})


def values_of(seed: int, records: int = RECORDS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = {"grad_norm": 0.1, "response_std": 0.02, "weight_norm": 0.0001}
    found = {name: np.exp(spread * rng.standard_normal((records, LAYERS))) for name, spread in names.items()}
    return found | {"dead_units": 0.1 * rng.random((records, LAYERS)), "loss": np.exp(0.1 * rng.random((records, 1)))}


def test_equal_runs_are_the_same_to_the_last_bit() -> None:
    values = values_of(0)
    values["grad_norm"][40:, 2] = np.nan
    result = gl.compare_runs(run_of(values), run_of(values, "other"))
    assert result.same
    assert result.first_difference is None
    assert result.findings() == ["net and other are the same to the last bit: 5 statistics of 10 layers at 80 steps."]
    assert result.summary()["equal until"].tolist() == [790] * 5
    alone = {"loss": values["loss"][:1]}
    found = gl.compare_runs(run_of(alone), run_of(alone, "other")).findings()
    assert found == ["net and other are the same to the last bit: 1 statistic of 1 layer at 1 step."]


@pytest.mark.parametrize("record", [1, 37, RECORDS - 1])
def test_the_first_bit_that_differs_is_found_exactly(record: int) -> None:
    """One unit in the last place of one value; of several that differ, the first in the order of computation."""
    values, changed = values_of(0), values_of(0)
    for statistic, layer in (("grad_norm", 4), ("grad_norm", 6), ("response_std", 7)):
        changed[statistic][record, layer] = np.nextafter(changed[statistic][record, layer], 9)
    changed["weight_norm"][record + 1 :, 0] += 1e-12
    result = gl.compare_runs(run_of(values), run_of(changed, "other"))
    assert not result.same
    first = result.bits[0]
    assert (first.statistic, first.layer, first.step) == ("response_std", "layer8", 10 * record)
    assert result.bits[1].layer == "layer7"
    none, bit = result.findings()
    assert none == "net and other do not part beyond noise in any of 5 statistics."
    assert f"the same to the last bit up to step {10 * record - 10}; at step {10 * record} the first to differ" in bit


PLANTED = {
    "grad_norm": (3, lambda table: table[50:, 2].__imul__(8), "other has "),
    "response_std": (6, lambda table: table[50:, 5].__imul__(3), "other has "),
    "dead_units": (2, lambda table: table[50:, 1].__iadd__(0.6), "whose difference was "),
    "weight_norm": (8, lambda table: table[50:, 7].__setitem__(0, np.nan), "not finite in other"),
}


@pytest.mark.parametrize("statistic", PLANTED)
def test_what_parts_is_said_with_its_rule(statistic: str) -> None:
    layer, plant, words = PLANTED[statistic]
    values = values_of(1)
    plant(values[statistic])
    result = gl.compare_runs(run_of(values_of(0)), run_of(values, "other"))
    first = result.first_difference
    assert first is not None
    assert (first.statistic, first.layer, first.step) == (statistic, f"layer{layer}", 500)
    assert len(result.differences) == 1
    said = result.findings()[0]
    assert f"at step 500, first in {statistic} of layer{layer}" in said
    assert words in said
    assert rule_of(said).startswith("Told")


def test_zeros_rates_and_layers_from_the_start() -> None:
    values = values_of(1)
    values["grad_norm"][60:, 3] = 0
    (zero,) = gl.compare_runs(run_of(values_of(0)), run_of(values)).differences
    assert (zero.kind, zero.layer, zero.step) == ("state", "layer4", 600)
    # Zeros that either run had before in this layer are nothing new.
    values["grad_norm"][10:12, 3] = 0
    assert gl.compare_runs(run_of(values_of(0)), run_of(values)).first_difference is None
    rates = [{"learning_rate": np.where(np.arange(RECORDS) < step, 0.1, 0.09)[:, None]} for step in (40, 45)]
    (rate,) = gl.compare_runs(run_of(values_of(0) | rates[0]), run_of(values_of(1) | rates[1])).differences
    assert (rate.kind, rate.step, rate.first, rate.second) == ("setting", 400, 0.09, 0.1)
    values = values_of(1)
    values["response_std"][:, 4] *= 100
    (start,) = gl.compare_runs(run_of(values_of(0)), run_of(values)).differences
    assert (start.kind, start.layer, start.step) == ("start", "layer5", 0)


def train(seed: int, planted: float = 1.0, folder: Path | None = None) -> gl.DynamicsResult:
    """A net of four layers, of which the third is multiplied at step 40."""
    torch.manual_seed(seed)
    inputs = torch.Generator().manual_seed(seed)
    net = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(16, 16), nn.Tanh())))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with gl.watch(net, optimizer, every=1, sinks=[folder / f"run{seed}{planted:g}.csv"] if folder else []) as watch:
        for step in range(60):
            if step == 40:
                with torch.no_grad():
                    net[4].weight.mul_(planted)
            optimizer.zero_grad()
            net(torch.randn(32, 16, generator=inputs)).square().mean().backward()
            optimizer.step()
    return watch.result()


def test_a_training_that_is_changed_at_a_step(tmp_path: Path) -> None:
    base = train(0, folder=tmp_path)
    assert gl.compare_runs(base, train(0)).same
    # A factor within rounding of the norm's last bits is seen at its step, and in its layer.
    tiny = gl.compare_runs(base, train(0, 1 + 1e-5))
    assert (tiny.bits[0].step, tiny.bits[0].layer, tiny.first_difference) == (40, "4", None)
    parted = gl.compare_runs(base, train(1, 30.0, tmp_path)).first_difference
    assert parted is not None
    assert (parted.step, parted.layer) == (40, "4")
    assert gl.compare_runs(base, train(1)).first_difference is None
    # A file that a sink wrote has the bits of the run itself.
    assert gl.compare_runs(base, tmp_path / "run01.csv").same


def test_what_is_not_in_both_is_noted() -> None:
    first, second = values_of(0), values_of(0)
    del second["loss"]
    result = gl.compare_runs(run_of(first), run_of(second, "other", every=20))
    assert result.frame["step"].max() == 780
    assert result.same is False
    assert "net: 1 of 5 statistics are not in the other run: loss" in result.notes
    assert "other: 40 of 80 steps are not in the other run: 800, 820, 840, …" in result.notes


def test_float32_is_compared_as_float32() -> None:
    values = values_of(0)
    single = {name: table.astype(np.float32).astype(float) for name, table in values.items()}
    result = gl.compare_runs(run_of(values), run_of(single))
    assert result.same
    assert any("float32" in note for note in result.notes)


def test_runs_with_nothing_in_common_are_refused() -> None:
    run = run_of(values_of(0))
    shifted = gl.DynamicsResult(run.frame.assign(step=run.frame["step"] + 1), run.record)
    with pytest.raises(gl.UsageError, match="the runs have no step in common: 0, 10, 20, … and 1, 11, 21, …"):
        gl.compare_runs(run, shifted)
    with pytest.raises(gl.UsageError, match="no statistic in common among update_norm"):
        gl.compare_runs(run, run, statistics=["update_norm"])
    with pytest.raises(gl.UsageError, match="two runs are compared, and one result has 2: net, net"):
        gl.compare_runs(run, gl.DynamicsResult.concat([run, run]))
    with pytest.raises(gl.UsageError, match=r"nosuch\.csv does not exist"):
        gl.compare_runs("nosuch.csv", run)
    with pytest.raises(gl.UsageError, match="or a path, not int"):
        gl.compare_runs(1, run)  # type: ignore[arg-type]


def test_it_is_saved_loaded_drawn_and_reported(tmp_path: Path) -> None:
    values = values_of(1)
    values["grad_norm"][50:, 2] *= 8
    result = gl.compare_runs(run_of(values_of(0)), run_of(values, "other"))
    result.save(tmp_path, formats=())
    loaded = gl.Result.load(tmp_path)
    assert isinstance(loaded, gl.ComparisonResult)
    assert loaded.findings() == result.findings()
    pd.testing.assert_frame_equal(loaded.summary(), result.summary())
    figure = result.figure()
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes[:3]] == [
        "net",
        "other",
        "other against net",
    ]
    (ring,) = {tuple(line.get_xydata()[0]) for line in figure.axes[2].get_lines() if line.get_marker() == "o"}
    assert ring == (500, 3)
    ratio = np.asarray(figure.axes[2].collections[0].get_array()).reshape(LAYERS, RECORDS)
    assert ratio == pytest.approx((values["grad_norm"] / values_of(0)["grad_norm"]).T)
    page = gl.report([tmp_path], tmp_path / "report.html").read_text()
    assert "part beyond noise at step 500" in page
    result.drawn = ("update_norm",)
    with pytest.raises(gl.UsageError, match="update_norm was not recorded by both runs; there is grad_norm, "):
        result.figure()
