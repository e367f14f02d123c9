"""Gradients of single examples and their sums, against explicit gradients in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.stats import (
    ExampleContributions,
    Geometry,
    OuterGradients,
    RowGradients,
    Workspace,
    convolution_gradients,
    joint_norms,
)
from gradlab.stats.example_convolutions import GroupedGradients, ProductGradients


def images(n: int, size: int, channels: int) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def check_sums(contributions: ExampleContributions, rows: Tensor) -> None:
    """Reduce twice in one workspace, whose memory then holds earlier values."""
    workspace = Workspace()
    for _ in range(2):
        norms, sums, *_ = contributions.reduced(workspace)
        np.testing.assert_allclose(norms, rows.norm(dim=1), rtol=1e-12)
        for row, expected in enumerate([rows.sum(0), F.normalize(rows, dim=1).sum(0)]):
            torch.testing.assert_close(contributions.in_order(sums[:, row]), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(contributions.rows(), rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [1, 3, 40])
def test_gradients_are_made_in_parts(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zero gradient has no direction; the number of positions selects rows or Gram matrices."""
    monkeypatch.setattr("gradlab.stats.example_gradients._VALUES", 100)
    monkeypatch.setattr("gradlab.stats.example_outer._LARGE", 1)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(7, length, n, dtype=torch.float64, generator=generator) for n in (5, 8))
    b[3] = 0
    gradients = OuterGradients(a, b)
    rows = torch.stack([(b[i].T @ a[i]).flatten() for i in range(7)])
    assert [part.shape[1] for part in gradients.parts(Workspace())] == [2, 2, 2, 1]
    check_sums(gradients, rows)
    check_sums(RowGradients(rows), rows)


@pytest.mark.parametrize("kind", [GroupedGradients, ProductGradients])
@pytest.mark.parametrize(
    ("size", "weight", "settings"),
    [
        ((8, 8), (4, 6, 3, 3), {"padding": 1}),
        ((9, 7), (4, 3, 3, 1), {"padding": (2, 1), "stride": (2, 3), "dilation": (2, 1), "groups": 2}),
        ((7, 8), (6, 1, 2, 3), {"stride": 2, "groups": 6}),
        ((11,), (4, 6, 3), {"padding": 1, "stride": 2, "dilation": 2}),
        ((4, 5, 6), (4, 6, 2, 3, 3), {"padding": 1, "stride": (1, 2, 1)}),
    ],
)
def test_convolutions(
    kind: type[ExampleContributions],
    size: tuple[int, ...],
    weight: tuple[int, ...],
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gradlab.stats.example_gradients._VALUES", 2 * math.prod(weight))
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
    channels = weight[1] * settings.get("groups", 1)
    layer = conv(channels, weight[0], weight[2:], bias=False, dtype=torch.float64, **settings)
    x = images(5, 1, channels).double().reshape(5, channels, *[1] * len(size)) * torch.randn(size, dtype=torch.float64)
    output = layer(x)
    g = torch.randn_like(output)
    rows = [torch.autograd.grad(output[i], layer.weight, g[i], retain_graph=True)[0].flatten() for i in range(5)]
    geometry = Geometry(weight, layer.stride, layer.padding, layer.dilation, layer.groups)
    check_sums(kind(x, g, geometry), torch.stack(rows))


@pytest.mark.parametrize(("size", "kind"), [(32, GroupedGradients), (2, ProductGradients)])
def test_small_maps_are_separated_by_products(size: int, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no C library."""
    monkeypatch.setattr("gradlab.stats.example_native._library", lambda: None)
    x = images(2, size, 16)
    assert type(convolution_gradients(x, x, Geometry((16, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1))) is kind


@pytest.mark.parametrize("shape", [(1, 2, 5), (1, 3, 1 << 17), (2, 3, 100003), (3, 4, 12288), (2, 2, 0)])
def test_joint_norms(shape: tuple[int, int, int]) -> None:
    pieces = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(joint_norms(pieces), (pieces.double().numpy() ** 2).sum((0, 2)) ** 0.5, rtol=1e-6)
