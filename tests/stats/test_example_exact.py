"""Gradients of single examples whose values, products or sums leave the range of float32, against plain loops."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradlab.stats import EmbeddingGradients, ExampleContributions, Geometry, OuterGradients, Workspace, example_native
from gradlab.stats.example_convolutions import GroupedGradients, NativeGradients, ProductGradients
from gradlab.stats.pair_products import PairProducts

EXAMPLES, PADDING = 4, 1
IDS = torch.arange(12).view(EXAMPLES, 3) % 5


def by_loop(x: Tensor, g: Tensor) -> Tensor:
    """The gradients of 3 × 3 convolutions, of which a tap and a position beyond the image make no term."""
    rows = torch.zeros(len(x), g.shape[1], x.shape[1], 3, 3, dtype=torch.float64)
    height, width = x.shape[2:]
    for k, m, i, j in itertools.product(range(3), range(3), range(g.shape[2]), range(g.shape[3])):
        y, z = i + k - PADDING, j + m - PADDING
        if 0 <= y < height and 0 <= z < width:
            rows[..., k, m] += g[:, :, None, i, j].double() * x[:, None, :, y, z].double()
    return rows.flatten(1)


def by_lookup(g: Tensor) -> Tensor:
    """The gradients of an embedding table of five rows, in the order of the positions."""
    rows = torch.zeros(EXAMPLES, 5, g.shape[2], dtype=torch.float64)
    for example, position in itertools.product(range(EXAMPLES), range(g.shape[1])):
        rows[example, IDS[example, position]] += g[example, position].double()
    return rows.flatten(1)


def convolution(kind: type[ExampleContributions]) -> Callable[[Tensor, Tensor], ExampleContributions]:
    make: Callable[..., ExampleContributions] = kind
    return lambda x, g: make(x, g, Geometry((g.shape[1], x.shape[1], 3, 3), (1, 1), (1, 1), (1, 1), 1))


Way = tuple[tuple[int, ...], tuple[int, ...], Callable[[Tensor, Tensor], ExampleContributions], Callable[..., Tensor]]

WAYS: dict[str, Way] = {
    "winograd": ((16, 5, 4), (17, 5, 4), convolution(NativeGradients), by_loop),
    "native": ((3, 5, 4), (6, 5, 4), convolution(NativeGradients), by_loop),
    "grouped": ((3, 5, 4), (6, 5, 4), convolution(GroupedGradients), by_loop),
    "products": ((3, 5, 4), (6, 5, 4), convolution(ProductGradients), by_loop),
    "linear": ((5, 3), (5, 4), OuterGradients, lambda a, b: torch.bmm(b.double().mT, a.double()).flatten(1)),
    "embedding": (
        (1,),
        (3, 2),
        lambda _, g: EmbeddingGradients(IDS, g, 5),
        lambda _, g: by_lookup(g),
    ),
}

ways = pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=pytest.mark.skipif(not example_native._library(), reason="there is no C compiler"))
        if way in ("winograd", "native")
        else way
        for way in WAYS
    ],
)


def drawn(way: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    of_input, of_output, *_ = WAYS[way]
    x, g = (torch.randn(EXAMPLES, *shape, generator=generator) for shape in (of_input, of_output))
    return (torch.ones_like(x), g) if way == "embedding" else (x, g)


def check(way: str, x: Tensor, g: Tensor) -> None:
    """Reduce, and compare with the exact rows; also the rows by themselves."""
    *_, make, exactly = WAYS[way]
    exact, products = exactly(x, g), PairProducts(EXAMPLES)
    contribution = make(x, g)
    norms, sums, direction_norm, _ = contribution.reduced(Workspace(), products)
    expected = np.linalg.norm(exact.numpy(), axis=1)
    np.testing.assert_allclose(norms, expected, rtol=1e-6)
    rows = contribution.computed().rows().double()
    np.testing.assert_allclose(np.linalg.norm(rows.numpy(), axis=1), expected, rtol=1e-6)
    finite = torch.from_numpy(np.isfinite(expected))
    unit = exact / torch.from_numpy(np.where(expected > 0, expected, 1))[:, None]
    if finite.all():
        found = sums[:, 1].double().norm() if direction_norm is None else direction_norm
        np.testing.assert_allclose(found, unit.sum(0).norm(), rtol=1e-5)
        total, right = contribution.in_order(sums[:, 0]).double(), exact.sum(0)
        inside = right.abs() < 3e38
        error = (total - right)[inside].abs()
        assert (error <= 1e-6 * min(exact.abs().sum(0).max().item(), 3e38) + 1e-44).all()
    assert products.total is not None
    cosines = products.total[finite][:, finite] / norms[finite].clamp(min=1e-300)[:, None]
    np.testing.assert_allclose(cosines / norms[finite].clamp(min=1e-300), (unit @ unit.T)[finite][:, finite], atol=1e-5)


@ways
@pytest.mark.parametrize("values", [1 << 24, 1], ids=["together", "one at a time"])
def test_any_scale(way: str, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs and gradients of each example have scales of their own, and one example has no gradient."""
    monkeypatch.setattr("gradlab.stats.example_gradients._VALUES", values)
    exponents = st.lists(st.integers(-30, 30), min_size=EXAMPLES, max_size=EXAMPLES)

    @settings(max_examples=12, deadline=None)
    @given(of_input=exponents, of_gradient=exponents, seed=st.integers(0, 1 << 20))
    def holds(of_input: list[int], of_gradient: list[int], seed: int) -> None:
        x, g = drawn(way, seed)
        if way != "embedding":
            x *= torch.tensor([10.0**e for e in of_input]).view(-1, *[1] * (x.ndim - 1))
        g *= torch.tensor([10.0**e for e in of_gradient]).view(-1, *[1] * (g.ndim - 1))
        g[seed % EXAMPLES] = 0
        check(way, x, g)

    holds()


@ways
def test_values_near_the_end_of_float32(way: str) -> None:
    """Sums of inputs or of gradients overflow, though no product does."""
    for part, factor in ((0, 3e38), (1, 3e38), (0, 1e-44), (1, 1e-44)):
        x, g = drawn(way)
        x, g = x.sign() * (factor if part == 0 and way != "embedding" else 1), g.sign() * (factor if part else 1e-3)
        x[1:], g[1:] = drawn(way)[0][1:], drawn(way)[1][1:]
        check(way, x, g)


@ways
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", ["input", "gradient", "both", "where the gradient is 0"])
def test_what_is_not_finite(way: str, value: float, place: str) -> None:
    """At a corner and inside, where the gradient itself is infinite, or NaN for inf · 0 and inf − inf."""
    x, g = drawn(way)
    if place != "gradient" and way != "embedding":
        x[1, ..., 2] = value
        x[2].flatten()[0] = value
    if place in ("gradient", "both"):
        g[1, ..., 1] = value
        g[2].flatten()[0] = value
    if place == "where the gradient is 0":
        g[1] = 0
    check(way, x, g)
