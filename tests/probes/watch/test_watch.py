"""gl.watch against loops by hand: responses, activations, losses, and what becomes of the rows."""

import copy
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from probes.watch.loop import batch, hooks, made, train, values
from torch import nn

import gradlab as gl


def test_responses_and_activations_of_a_loop_by_hand() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    twin = copy.deepcopy(model).double()
    with gl.watch(model, optimizer, every=1) as watch:
        train(model, optimizer, 1)
    frame = watch.result("mine").to_frame()
    x, y = batch(0)
    stem = twin.norm(twin.stem(x.double()))
    first = stem.relu()
    deep = twin.deep(first)
    second = (first + deep).relu()
    head = twin.head(second.mean((2, 3)))
    for response in (stem, deep, head):
        response.retain_grad()
    loss = F.cross_entropy(torch.tanh(head), y)
    loss.backward()
    for layer, response in {"stem": stem, "deep": deep, "head": head}.items():
        found, exact = values(frame, 0, layer), response.detach()
        assert found["response_std"] == pytest.approx(exact.std(correction=0).item(), rel=1e-6)
        assert found["response_mean"] == pytest.approx(exact.mean().item(), rel=1e-5, abs=1e-7)
        assert found["response_max"] == pytest.approx(exact.abs().max().item(), rel=1e-6)
        assert found["response_grad_rms"] == pytest.approx(response.grad.square().mean().sqrt().item(), rel=1e-5)
    assert values(frame, 0, "stem")["zero_fraction"] == pytest.approx((first == 0).double().mean().item(), abs=1e-12)
    # What is rectified there is a sum, and no layer's response.
    after = values(frame, 0, "relu")
    assert after["zero_fraction"] == pytest.approx((second == 0).double().mean().item(), abs=1e-12)
    assert values(frame, 0, "head")["saturated_fraction"] == (torch.tanh(head).abs() >= 0.98).double().mean().item()
    assert "zero_fraction" not in values(frame, 0, "deep")
    assert values(frame, 0, "total")["loss"] == pytest.approx(loss.item(), rel=1e-6)
    order = frame[frame["layer"] != "total"].groupby("layer")["index"].unique().sort_values()
    assert {layer: place.tolist() for layer, place in order.items()} == {
        "stem": [1],
        "deep": [2],
        "relu": [3],
        "head": [4],
    }
    columns = ["network", "step", "layer", "index", "block", "statistic", "value"]
    assert frame.columns[:7].tolist() == columns


def test_micro_batches_are_one_step_and_validation_is_none() -> None:
    kind = lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 8), nn.ReLU(), nn.Linear(8, 3))  # noqa: E731
    frames = []
    for parts in (1, 3):
        model = made(kind)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with gl.watch(model, optimizer, every=2) as watch:
            for step in range(3):
                x, y = batch(step)
                for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                    (F.cross_entropy(model(a), b) / parts).backward()
                optimizer.step()
                optimizer.zero_grad()
                model.eval()
                with torch.no_grad():
                    model(10 * x)
                with torch.inference_mode():
                    model(10 * x)
                model.train()
        frames.append(watch.result().frame)
    one, three = frames
    assert one[["step", "layer", "statistic"]].astype(str).equals(three[["step", "layer", "statistic"]].astype(str))
    # A weight that has not moved before the first step turns by rounding alone.
    torch.testing.assert_close(torch.tensor(one["value"]), torch.tensor(three["value"]), rtol=2e-5, atol=1e-7)


def test_clipping_is_told_apart() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        x, y = batch(0)
        F.cross_entropy(model(x), y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01).item()
        optimizer.step()
    total = values(watch.result().frame, 0, "total")
    assert total["grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert total["grad_norm_clipped"] == pytest.approx(0.01, rel=1e-4)
    # To first order the loss falls by the rate times gradient and clipped gradient.
    assert total["predicted_loss_change"] == pytest.approx(-0.1 * norm * 0.01, rel=1e-4)
    assert total["update_cosine"] == pytest.approx(1.0, abs=1e-7)


def test_numbers_of_ones_own_and_the_loss_after_the_step() -> None:
    model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 3), nn.BatchNorm1d(3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    x, y = batch(0)
    running = []
    with gl.watch(model, optimizer, every=2) as watch:
        for step in range(2):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            running.append(model[2].running_mean.clone())
            watch.log(again=lambda: F.cross_entropy(model(x), y), accuracy=0.5, step_twice=torch.tensor(2 * step))
            optimizer.step()
            assert torch.equal(model[2].running_mean, running[-1])
            if step == 0:
                change = F.cross_entropy(model.train()(x), y) - loss
            optimizer.zero_grad()
    frame = watch.result().frame
    total = values(frame, 0, "total")
    assert total["actual_loss_change"] == pytest.approx(change.item(), rel=1e-3)
    assert total["predicted_loss_change"] == pytest.approx(change.item(), rel=0.05)
    assert (total["accuracy"], total["step_twice"]) == (0.5, 0)
    assert sorted(frame["step"].unique()) == [0]


def test_units_that_are_0_for_every_input_are_dead() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.Softmax(-1))
    nn.init.constant_(model[0].bias, 5.0)
    with torch.no_grad():
        model[0].bias[:3] = -1000.0
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([9.0, 0.0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gl.watch(model, optimizer, every=1) as watch:
        model(torch.randn(32, 4, generator=torch.Generator().manual_seed(0))).sum().backward()
        optimizer.step()
    frame = watch.result().frame
    found = values(frame, 0, "0")
    assert (found["dead_units"], found["zero_fraction"]) == (0.5, 0.5)
    # e⁻⁹ of the weight is elsewhere.
    assert values(frame, 0, "2")["saturated_fraction"] == 1.0


@pytest.mark.parametrize("since", ["of the step", "since the last record"])
def test_units_that_live_between_records_are_not_dead(since: str) -> None:
    """Against the activations of every pass, of a net of which a unit wakes up for single batches alone."""
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 40), nn.Sigmoid(), nn.Linear(40, 8), nn.Hardtanh())
    model = model.requires_grad_(True)
    with torch.no_grad():
        model[0].bias.copy_(torch.linspace(-4, 1, 40))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(0)
    silent = torch.ones(40, dtype=torch.bool)
    expected = []
    with gl.watch(model, optimizer, every=4, dead_units=since) as watch:
        for step in range(9):
            for _ in range(2):
                x = torch.randn(6, 4, generator=generator)
                model(x).sum().backward()
                quiet = (model[1](model[0](x)) == 0).all(0)
                silent &= quiet
            with torch.no_grad():
                model(torch.full((3, 4), 100.0))
            optimizer.step()
            if step % 4 == 0:
                expected.append(silent.double().mean().item())
            if step % 4 == 0 or (since == "of the step" and step % 4 == 3):
                silent = torch.ones(40, dtype=torch.bool)
    found = [values(watch.result().frame, step, "0")["dead_units"] for step in (0, 4, 8)]
    assert found == pytest.approx(expected)
    assert 0 < expected[1] < 1
    assert hooks(model) == 0


def test_rows_go_to_sinks_as_they_come() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    taken: list[dict[str, object]] = []

    class Sink:
        def write(self, rows: list[dict[str, object]]) -> None:
            taken.extend(rows)

    counts = []
    with gl.watch(model, optimizer, every=2, sinks=[Sink(), lambda rows: counts.append(len(rows))]) as watch:
        for step in range(3):
            train(model, optimizer, 1, first=step)
    frame = watch.result().frame
    assert sum(counts) == len(taken) == len(frame)
    assert len(counts) == 2
    texts = dict.fromkeys(("layer", "block", "statistic"), str)
    assert pd.DataFrame(taken).equals(frame[["step", "layer", "index", "block", "statistic", "value"]].astype(texts))


def test_blocks_are_named() -> None:
    model = gl.build("resnet8@init")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        model(torch.randn(2, 3, 32, 32)).sum().backward()
        optimizer.step()
    blocks = watch.result().frame.drop_duplicates("layer").set_index("layer")["block"]
    assert (blocks["conv1"], blocks["layer2.0.conv2"], blocks["total"]) == ("", "layer2.0", "")
    assert math.isfinite(values(watch.result().frame, 0, "layer2.0.conv2")["grad_norm"])


def test_a_result_is_saved_drawn_and_loaded(tmp_path: Path) -> None:
    model = gl.build("resnet8@init")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        for _ in range(2):
            model(torch.randn(2, 3, 32, 32)).sum().backward()
            optimizer.step()
    result = watch.result()
    result.save(tmp_path, ("png",))
    again = gl.DynamicsResult.load(tmp_path)
    columns = ["network", "step", "layer", "index", "block", "statistic", "value"]
    texts = dict.fromkeys(("network", "layer", "block", "statistic"), str)
    assert again.frame[columns].astype(texts).equals(result.frame[columns].astype(texts))
    assert again.summary().equals(result.summary())
    assert again.findings() == result.findings()
    assert result.coverage.layers_measured == 8
