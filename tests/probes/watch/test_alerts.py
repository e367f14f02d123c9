"""Five broken nets, each to its cause; and alerts while they train."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradlab as gl


def mlp(depth: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(depth):
        linear = nn.Linear(16 if number == 0 else 48, 48)
        if activation is nn.ReLU:
            nn.init.kaiming_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers, nn.Linear(48, 4))


@torch.no_grad()
def broken(name: str) -> tuple[nn.Sequential, float]:
    """A net with a fault, and a learning rate."""
    if name == "vanishing sigmoid":
        return mlp(10, nn.Sigmoid), 0.05
    net = mlp(8)
    if name == "dead ReLU":
        net[6].bias.fill_(-100.0)
    elif name == "exploding init":
        for linear in net[::2]:
            linear.weight.mul_(8)
        return net, 1e-12
    elif name == "wrong scale":
        net[8].weight.mul_(100)
        return net, 1e-7
    elif name == "diverging":
        return net, 10.0
    return net, 0.05


CAUSES = {
    "dead ReLU": [("dead", "6"), ("zero gradient", "16")],
    "exploding init": [("response", "0")],
    "vanishing sigmoid": [("gradient", "0")],
    "wrong scale": [("jump", "8")],
    "diverging": [("non-finite", None)],
    "healthy": [],
}


def train(net: nn.Sequential, rate: float, **options: object) -> gl.Watch:
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(1)
    with gl.watch(net, optimizer, every=3, **options) as watch:
        for _ in range(20):
            x = torch.randn(64, 16, generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(net(x), x[:, :4].argmax(1)).backward()
            optimizer.step()
    return watch


@pytest.mark.parametrize("name", CAUSES)
def test_a_broken_net_is_led_to_its_cause(name: str) -> None:
    from gradlab.results.dynamics.findings import seen

    found = {(one.kind, one.layer) for one in seen(train(*broken(name)).result().frame)}
    for kind, layer in CAUSES[name]:
        assert any(k == kind and layer in (None, at) for k, at in found), found
    assert found if CAUSES[name] else not found


def test_an_alert_is_called_once_each() -> None:
    told: list[str] = []
    watch = train(*broken("dead ReLU"), on_alert=told.append)
    assert len(told) == len(set(told)) >= 2
    assert set(told) <= {str(finding) for finding in watch.result().findings()} | set(told)
    assert any("the gradient is exactly 0 in 16 and all 8 layers before it" in one for one in told)


def test_an_alert_warns_or_raises() -> None:
    with pytest.warns(UserWarning, match="100% of the units are dead in 6"):
        train(*broken("dead ReLU"), on_alert="warn")
    with pytest.raises(gl.GradlabError, match="is the first not to be finite"):
        train(*broken("diverging"), on_alert="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(*broken("healthy"), on_alert="warn")
    with pytest.raises(gl.UsageError, match="on_alert is warn, raise or a function"):
        train(*broken("healthy"), on_alert="shout")
