"""A loss and gradient norm that stay far above those of the first record: too early for a spike to be told."""

from collections.abc import Callable, Iterator

import pandas as pd
import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.results.dynamics.findings import seen
from gradlab.results.dynamics.seen import Earlier


def told(
    loss: list[float],
    norm: list[float],
    earlier: Earlier | None = None,
    layer: str = "total",
    predicted: list[float] | None = None,
) -> list[int]:
    steps = [-100.0] * len(loss) if predicted is None else predicted
    rows = [
        {"step": 10 * place, "layer": layer, "index": 0, "statistic": name, "value": value}
        for name, values in (("loss", loss), ("grad_norm", norm), ("predicted_loss_change", steps))
        for place, value in enumerate(values)
    ]
    return [one.step for one in seen(pd.DataFrame(rows), earlier) if one.kind == "diverging"]


def test_both_have_to_stay_large() -> None:
    flat = [1.0] * 6
    assert told([2, 1, 11, 12, 13], [1, 9, 6, 7, 8]) == [20]
    assert told([2, 11, 12, 13], [1, 6, 7, 8]) == [10]
    assert not told([2, 11, 12], [1, 6, 7])
    assert not told([2, 11, 12, 13], [1, 6, 7, 5])
    assert not told([2, 11, 12, 10, 13], [1, 6, 7, 8, 9])
    # A coefficient of the loss that is warmed up, and one that begins at nothing.
    assert not told([2, 11, 12, 13, 14, 15], flat)
    assert not told([0, 1, 2, 3], [0, 1, 2, 3])
    assert not told([-2, -1, 12, 13, 14], [1, 6, 7, 8, 9])
    # Steps that are small do not make a loss grow, whatever else does; one of these is large.
    assert not told([2, 11, 12, 13], [1, 6, 7, 8], predicted=[-3, -10, -11, -12])
    assert told([2, 11, 12, 13], [1, 6, 7, 8], predicted=[0, -10, -12.1, -12]) == [10]
    assert not told([2, 11, 12, 13], [1, 6, 7, 8], predicted=[])
    # Two networks that are trained in turn have losses of their own.
    assert not told([2, 11, 12, 13], [1, 6, 7, 8], layer="total[0]")


def test_of_the_newest_records_the_first_is_not_known() -> None:
    """A loss near 0 may well be five times as large a moment later."""
    late = [0.01, 0.06, 0.07, 0.08], [0.1, 0.6, 0.7, 0.8]
    assert not told(*late, Earlier(first={"loss": 2.3, "grad_norm": 1.0}))
    assert told(*late, Earlier(first={"loss": 0.001, "grad_norm": 0.01})) == [0]
    assert not told(*late, Earlier(first={"response_std": 1.0}))


@pytest.mark.parametrize("rate", [1e-3, 1.0])
def test_a_learning_rate_that_is_far_too_large(rate: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    alerts: list[str] = []
    with gl.watch(net, optimizer, every=1, on_alert=alerts.append) as watch:
        for _ in range(8):
            x = torch.randn(32, 16, generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), x[:, :4].argmax(1)).backward()
            optimizer.step()
    found = [finding for finding in watch.result().findings() if "diverges" in finding]
    assert len(found) == (rate == 1)
    assert any("diverges" in alert for alert in alerts) == bool(found)
    if found:
        frame = watch.result().frame
        total = frame[frame["layer"] == "total"].pivot_table(index="step", columns="statistic", values="value")
        first, last = total.iloc[0], total.iloc[-3:].median()
        assert f"the loss is {last['loss']:.3g} and the gradient norm {last['grad_norm']:.3g}" in found[0]
        assert f"after {first['loss']:.3g} and {first['grad_norm']:.3g} at the first record" in found[0]


def trained_by_a_critic(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Iterator[torch.Tensor]:
    """The loss of a generator, whose discriminator becomes better."""
    optimizer.param_groups[0]["lr"] = 2e-4
    critic = nn.Sequential(nn.Linear(4, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
    other = torch.optim.Adam(critic.parameters(), lr=5e-3, betas=(0.5, 0.999))
    for _ in range(2 * steps):
        z = torch.randn(32, 16)
        other.zero_grad()
        real, made = critic(4 + 0.1 * torch.randn(32, 4)), critic(net(z).detach())
        (nn.functional.softplus(-real).mean() + nn.functional.softplus(made).mean()).backward()
        other.step()
        yield nn.functional.softplus(-critic(net(z))).mean()


def with_growing_coefficient(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Iterator[torch.Tensor]:
    for step in range(steps):
        x = torch.randn(32, 16)
        yield (0.1 + step) * nn.functional.cross_entropy(net(x), x[:, :4].argmax(1))


def of_another_task(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Iterator[torch.Tensor]:
    """Trained to do nothing but one class, and then given the labels."""
    for step in range(200 + steps):
        x = torch.randn(32, 16)
        y = x[:, :4].argmax(1) if step >= 200 + steps - 10 else torch.zeros(32, dtype=torch.long)
        yield nn.functional.cross_entropy(net(x), y)


def upward(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Iterator[torch.Tensor]:
    """What is unlearned."""
    optimizer.param_groups[0]["maximize"] = True
    for _ in range(4 * steps):
        yield (net(torch.randn(32, 16)) - 1).square().mean()


@pytest.mark.parametrize("losses", [trained_by_a_critic, with_growing_coefficient, of_another_task, upward])
def test_losses_that_grow_in_sound_trainings(losses: Callable[..., Iterator[torch.Tensor]]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    alerts: list[str] = []
    first = 200 if losses is of_another_task else 0
    with gl.watch(
        net, optimizer, every=lambda step: step >= first - 4, on_alert=alerts.append, measure=["gradients", "updates"]
    ) as watch:
        for loss in losses(net, optimizer, 60):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    frame = watch.result().frame
    total = frame[frame["layer"] == "total"].pivot_table(index="step", columns="statistic", values="value")
    # Both have grown as far as they do where a training diverges.
    assert ((total.iloc[-3:] > 5 * total.iloc[0])[["loss", "grad_norm"]]).all(axis=None)
    assert not [one for one in [*alerts, *watch.result().findings()] if "diverges" in one]
