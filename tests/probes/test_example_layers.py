"""ExampleGradients for layers and for uses of parameters of many kinds, against a loop over single examples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles.example_gradients import by_loop, check_equal, expected_of, gradients_of, loss_of
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, weight_norm
from torch.utils.checkpoint import checkpoint

import gradlab as gl


class Made(nn.Module):
    """A module whose forward pass is a function of it and its input."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


class LowRank(nn.Module):
    """A frozen linear layer with a trained update of rank 2, added to its output or to its weight."""

    def __init__(self, merged: bool) -> None:
        super().__init__()
        self.base, self.merged = nn.Linear(12, 4).requires_grad_(False), merged
        self.down, self.up = parameter(2, 12), parameter(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return F.linear(x, self.base.weight + self.up @ self.down, self.base.bias)
        return self.base(x) + (x @ self.down.T) @ self.up.T


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))))


def layers(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules, nn.Flatten())


TOKENS, IMAGES, VOLUMES, IDS = (4, 6, 12), (4, 4, 8, 8), (4, 2, 4, 5, 6), (4, 5)

CASES: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "groups and strides": (
        IMAGES,
        lambda: layers(nn.Conv2d(4, 8, 3, 2, 2, 2, 2), nn.Tanh(), nn.ConvTranspose2d(8, 6, 3, 2, 1, 1, 2)),
    ),
    "volumes": (
        VOLUMES,
        lambda: layers(nn.Conv3d(2, 4, (2, 3, 3), (1, 2, 1), 1, groups=2), nn.ConvTranspose3d(4, 2, 2)),
    ),
    "signals": (
        TOKENS,
        lambda: layers(
            nn.Conv1d(6, 5, 3, padding=2, padding_mode="reflect"), nn.ConvTranspose1d(5, 2, 4, 3, dilation=2)
        ),
    ),
    "norms": (
        IMAGES,
        lambda: layers(
            nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 2, 3), nn.LayerNorm([2, 6, 6])
        ),
    ),
    "reparametrized": (
        IMAGES,
        lambda: nn.Sequential(weight_norm(nn.Conv2d(4, 1, 3)), nn.Flatten(), orthogonal(nn.Linear(36, 3))),
    ),
    "padding": (IDS, lambda: Made(lambda m, i: m.table(i).tanh().mean(1), table=nn.Embedding(7, 3, padding_idx=0))),
    "bags": (IDS, lambda: nn.EmbeddingBag(7, 3, mode="mean")),
    "tied": (
        IDS,
        lambda: Made(lambda m, i: F.linear(m.table(i).tanh(), m.table.weight).mean(1), table=nn.Embedding(7, 6)),
    ),
    "attention": (
        TOKENS,
        lambda: Made(
            lambda m, x: m.attention(x, x[..., :6], x[..., 6:])[0].mean(1),
            attention=nn.MultiheadAttention(12, 3, batch_first=True, kdim=6, vdim=6, add_bias_kv=True),
        ),
    ),
    "recurrent": (TOKENS, lambda: Made(lambda m, x: m.cells(x)[0][:, -1], cells=nn.LSTM(12, 3, 2, batch_first=True))),
    "checkpoint": (
        IMAGES,
        lambda: Made(
            lambda m, x: checkpoint(m.block, m.stem(x), use_reentrant=False).mean((2, 3)),
            stem=nn.Conv2d(4, 4, 3),
            block=nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True)),
        ),
    ),
    "low rank": (TOKENS, lambda: layers(LowRank(merged=False))),
    "low rank, merged": (TOKENS, lambda: layers(LowRank(merged=True))),
    "products": (
        TOKENS,
        lambda: Made(
            lambda m, x: torch.einsum("bti,oi->bto", m.slope(m.form(x, x)), m.weight).mean(1),
            form=nn.Bilinear(12, 12, 5),
            slope=nn.PReLU(),
            weight=parameter(3, 5),
        ),
    ),
    "a shared matrix for every example": (
        TOKENS,
        lambda: Made(lambda m, x: torch.bmm(x, m.weight.expand(len(x), 12, 3)).mean(1), weight=parameter(12, 3)),
    ),
    "a token of its own": (
        TOKENS,
        lambda: Made(
            lambda m, x: torch.cat([m.token.expand(len(x), 1, 12), x], 1).tanh().sum(1), token=parameter(1, 1, 12)
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_norms_and_gradients(name: str) -> None:
    shape, make = CASES[name]
    torch.manual_seed(0)
    model = make().double()
    x = torch.randint(7, shape) if shape is IDS else torch.randn(shape, dtype=torch.float64)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    expected = expected_of(model, x)
    with gl.ExampleGradients(model) as probe:
        # The second pass is the one in which gradients are the sums over examples.
        for _ in range(2):
            model.zero_grad()
            probe.backward(loss_of(model(x)))
            probe.step()
    check_equal(gradients_of(model), expected)
    model.requires_grad_(True)
    rows = by_loop(model, x)
    norms = torch.cat([torch.stack(found) for n, found in rows.items() if n in trained], 1).norm(dim=1)
    for _, found in probe.examples().query("layer == 'total'").groupby("step"):
        np.testing.assert_allclose(found["norm"], norms, rtol=1e-9)
