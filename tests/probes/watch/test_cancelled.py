"""Updates that rounding to 16 bits takes away: counted, and told where they are nearly all."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab as gl
from gradlab.results.dynamics.findings import seen
from gradlab.results.dynamics.rules import at_full_rate
from gradlab.results.dynamics.seen import Earlier, Seen


def shares(result: gl.DynamicsResult, layer: str = "total") -> list[float]:
    frame = result.frame
    return frame[(frame["statistic"] == "cancelled_fraction") & (frame["layer"] == layer)]["value"].tolist()


class Weights(nn.Module):
    """Weights that are given, as one layer each."""

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*weight.shape[::-1], bias=False) for weight in weights)
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.weight = nn.Parameter(weight)


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor]) -> gl.DynamicsResult:
    with gl.watch(model, optimizer, every=1, measure=["updates"]) as watch:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
    return watch.result()


def test_elements_that_half_a_spacing_does_not_move() -> None:
    """bfloat16 has 8 binary digits: from 1 to 2 its numbers lie 2⁻⁷ apart."""
    weight = torch.tensor([[1.25, 1.25, 1.25, 1.25, 1.25, 0.0, 2.0**-20, 160.0]])
    step = torch.tensor([[0.6, -0.6, 0.4, -0.4, 0.0, 1e-3, 1e-3, 60.0]]) * 2.0**-7
    model = Weights(weight.bfloat16(), weight.clone())
    result = stepped(model, torch.optim.SGD(model.parameters(), lr=1.0), [-step, -step])
    # Of 7 that are to move, 2 are not at 1.25, and one, 60 / 128 of a spacing of 1, is not at 160.
    assert shares(result, "layers.0") == pytest.approx([3 / 7])
    assert not shares(result, "layers.1")
    # float32 weights have no part in the share of the whole model.
    assert shares(result) == pytest.approx([3 / 7])


def test_the_share_of_normal_weights_is_that_of_the_normal_distribution() -> None:
    """Adam's first step is the learning rate, which half a spacing exceeds from 2⁻⁸ on, or just below downward."""
    generator = torch.Generator().manual_seed(0)
    model = Weights((0.02 * torch.randn(1000, 1000, generator=generator)).bfloat16())
    gradient = torch.randn(1000, 1000, generator=generator)
    result = stepped(model, torch.optim.Adam(model.parameters(), lr=1e-5, eps=0.0), [gradient])
    assert shares(result) == pytest.approx([1 - math.erf(2**-8 / 0.02 / math.sqrt(2))], abs=0.005)
    assert shares(result)[0] == pytest.approx(0.85, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_every_element_before_and_after(dtype: torch.dtype, options: dict[str, bool]) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [size * torch.randn(30, 20, generator=generator) for size in (1.0, 0.01)]
    model = Weights(*(weight.to(dtype) for weight in weights))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, eps=1e-3, **options)
    expected: list[float] = []
    with gl.watch(model, optimizer, every=1, measure=["updates"]) as watch:
        for _ in range(4):
            for parameter in model.parameters():
                # Rows without a gradient, as of tokens that do not occur, are not to move.
                gradient = torch.randn(30, 20, generator=generator)
                gradient[:10] = 0
                parameter.grad = gradient.to(dtype)
            before = [p.detach().tolist() for p in model.parameters()]
            optimizer.step()
            after = [p.detach().tolist() for p in model.parameters()]
            same = sum(
                one == other
                for old, new in zip(before, after, strict=True)
                for row, now in zip(old[10:], new[10:], strict=True)
                for one, other in zip(row, now, strict=True)
            )
            expected.append(same / 800)
    assert 0.05 < max(expected) < 1
    assert shares(watch.result()) == pytest.approx(expected)


def test_elements_that_only_the_step_in_16_bits_moves() -> None:
    """Rprop multiplies the gradient by that of the step before: in float16 a small product is 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).half()
    optimizer = torch.optim.Rprop(model.parameters(), lr=1e-3)
    parameters, expected, others = [*model.parameters()], [], 0
    with gl.watch(model, optimizer, every=1, measure=["updates"]) as watch:
        for _ in range(12):
            optimizer.zero_grad()
            model(torch.randn(8, 16).half()).float().square().mean().backward()
            twins = [nn.Parameter(p.detach().float()) for p in parameters]
            again = torch.optim.Rprop(twins, lr=1e-3)
            for p, twin in zip(parameters, twins, strict=True):
                assert p.grad is not None
                twin.grad = p.grad.float()
                again.state[twin] = {name: value.float().clone() for name, value in optimizer.state[p].items()}
            before = [p.detach().clone() for p in parameters]
            starts = [twin.detach().clone() for twin in twins]
            again.step()
            optimizer.step()
            moving = torch.cat([(t != s).flatten() for t, s in zip(twins, starts, strict=True)])
            same = torch.cat([(p == b).flatten() for p, b in zip(parameters, before, strict=True)])
            expected.append(((moving & same).sum() / moving.sum().double()).item())
            others += int((~moving & ~same).sum())
    assert shares(watch.result()) == pytest.approx(expected, abs=1e-12)
    assert others


def test_weights_that_stand_still_are_told() -> None:
    torch.manual_seed(0)
    told = {}
    for dtype, rate in ((torch.bfloat16, 1e-6), (torch.bfloat16, 1e-3), (torch.float32, 1e-6)):
        model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)).to(dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        alerts: list[str] = []
        with gl.watch(model, optimizer, every=1, on_alert=alerts.append) as watch:
            for _ in range(5):
                optimizer.zero_grad()
                model(torch.randn(16, 32, dtype=dtype)).float().square().mean().backward()
                optimizer.step()
        found = [finding for finding in watch.result().findings() if "rounding" in finding]
        assert bool(alerts) == bool(found)
        told[dtype, rate] = found
    ((sentence,), *others) = told.values()
    assert sentence.startswith("Sequential: rounding to 16 bits takes the whole update of ")
    assert sentence.endswith(
        "% of the elements of weights (the median of 5 records since step 0): train float32 weights under autocast."
    )
    assert others == [[], []]


def records(shares: np.ndarray, rates: np.ndarray) -> pd.DataFrame:
    columns = {"cancelled_fraction": shares, "learning_rate": rates}
    rows = [
        {"step": step, "layer": "total", "index": 0, "statistic": name, "value": value}
        for name, values in columns.items()
        for step, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def cancelled(shares: np.ndarray, rates: np.ndarray, highest: float = 0.0) -> list[Seen]:
    return [one for one in seen(records(shares, rates), Earlier(highest_rate=highest)) if one.kind == "cancelled"]


def test_optimizers_that_step_apart_are_judged_apart() -> None:
    frames = []
    for number, (share, rate) in enumerate([(0.99, 1e-6), (0.3, 1e-2)]):
        frame = records(np.full(5, share), np.full(5, rate)).assign(layer=f"total[{number}]")
        frames.append(frame.replace({"learning_rate": f"learning_rate[{number}]"}))
    for order in (frames, frames[::-1]):
        (one,) = [one for one in seen(pd.concat(order, ignore_index=True)) if one.kind == "cancelled"]
        assert one.layer == "total[0]"
        assert "takes the whole update of 99% of the elements of weights of total[0] (the median of 5" in one.sentence


def test_only_records_at_the_full_learning_rate_are_judged() -> None:
    """While it is warmed up and as it decays, little is to change."""
    shares = np.array([0.99] * 10 + [0.5] * 20 + [0.99] * 70)
    rates = np.array([*np.arange(0.1, 1.1, 0.1), *[1.0] * 20, *[0.1] * 70])
    for stop in range(1, 101):
        assert not cancelled(shares[:stop], rates[:stop])
    # As an alert sees it, which keeps the newest records alone.
    assert not cancelled(shares[40:], rates[40:], highest=1.0)
    assert cancelled(shares[40:], rates[40:])
    (one,) = cancelled(np.full(12, 0.97), rates[:12])
    assert (one.step, one.layer) == (9, "total")
    assert not cancelled(np.full(11, 0.97), rates[:11])
    assert not cancelled(np.full(12, 0.94), rates[:12])
    np.testing.assert_array_equal(at_full_rate(np.array([0.5, 1.0, 0.6, 0.4])), [False, True, True, False])
    np.testing.assert_array_equal(at_full_rate(np.array([0.5, 0.4]), 0.9), [True, False])
    # Optimizers without a learning rate.
    assert not at_full_rate(np.full(3, np.nan)).any()
