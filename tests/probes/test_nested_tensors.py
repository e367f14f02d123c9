"""Nested tensors: examples of different lengths in one batch without padding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl

EXAMPLES = [
    torch.randn(length, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(length)) for length in (2, 3, 1)
]

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")

LAYOUTS = pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=["jagged", "strided"])


def batch(layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor(EXAMPLES, layout=layout)


def loss_of(output: Tensor) -> Tensor:
    return torch.cat([*output.unbind()]).square().mean()


class Residual(nn.Module):
    """A block and a head, which both kinds of nested tensors can run."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x + self.block(x))
        return logits


class Attention(nn.Module):
    """One head of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (each.unflatten(-1, [1, 4]).transpose(1, 2) for each in (self.query(x), self.key(x), x))
        return F.scaled_dot_product_attention(query, key, value)


@pytest.fixture
def net() -> Residual:
    torch.manual_seed(0)
    return Residual().double()


@LAYOUTS
def test_responses_and_their_gradients_are_those_of_all_rows(net: Residual, layout: torch.layout) -> None:
    rows = torch.cat(EXAMPLES)
    block = net.block(rows).detach().requires_grad_()
    head = net.head(rows + block)
    gradients = torch.autograd.grad(head.square().mean(), [block, head])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with (
        gl.ResponseStd(net) as responses,
        gl.ResponseGradients(net) as probe,
        gl.watch(net, optimizer, every=1) as watch,
    ):
        loss_of(net(batch(layout))).backward()
        probe.step()
        optimizer.step()
    stds = [each.std(correction=0).item() for each in (block, head)]
    assert responses.result().to_frame()["std"].tolist() == pytest.approx(stds, rel=1e-9)
    norms = [gradient.norm().item() for gradient in gradients]
    assert probe.result().to_frame().query("not block").response_grad_norm.tolist() == pytest.approx(norms, rel=1e-9)
    watched = watch.result().to_frame()
    assert watched[watched.statistic == "response_std"].value.tolist() == pytest.approx(stds, rel=1e-6)
    roots = [gradient.square().mean().sqrt().item() for gradient in gradients]
    found = watched[watched.statistic == "response_grad_rms"].set_index("layer").value
    assert [found["block"], found["head"]] == pytest.approx(roots, rel=1e-5)


@LAYOUTS
@pytest.mark.parametrize("kind", [gl.ExampleGradients, gl.InputGradients, gl.BlockSignal, gl.NonfiniteOrigin])
def test_what_is_told_by_examples_or_positions_is_refused(net: Residual, layout: torch.layout, kind: type) -> None:
    with kind(net), pytest.raises(gl.GradlabError, match=r"not measured of nested tensors: pad the examples"):
        loss_of(net(batch(layout))).backward()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_attention_of_nested_tensors_is_refused() -> None:
    net = Attention().double()
    with gl.AttentionStatistics(net), pytest.raises(gl.GradlabError, match="not measured of nested tensors"):
        net(batch(torch.jagged))
