"""Gradients of single examples at scales where float32 cannot represent squares, products or inverses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradlab.stats import ExampleContributions, Geometry, OuterGradients, Reduced, RowGradients, Workspace
from gradlab.stats.example_convolutions import GroupedGradients, ProductGradients

scales = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 1 << 20)
exponents = st.lists(st.integers(-30, 30), min_size=5, max_size=5)
"""Exponents of ten, one per example."""

WAYS = ["product", "gram", "rows"]


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def powers(exponents: list[int], *shape: int) -> Tensor:
    return torch.tensor([10.0**e for e in exponents]).view(-1, *shape)


def check(
    contribution: ExampleContributions,
    exact: Tensor,
    made: Tensor | None = None,
    found: Reduced | None = None,
) -> None:
    """Compare with gradients of shape (B, P) in float64, whose sum is that of the float32 gradients."""
    norms, sums, direction_norm, _ = found or contribution.reduced(Workspace())
    right = torch.linalg.vector_norm(exact, dim=1)
    np.testing.assert_allclose(norms, right, rtol=1e-6)
    expected = F.normalize(exact, dim=1, eps=1e-300).sum(0)
    if direction_norm is None:
        torch.testing.assert_close(contribution.in_order(sums[:, 1]).double(), expected, rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(direction_norm.square(), expected.square().sum(), rtol=1e-5, atol=1e-5)
    total = contribution.in_order(sums[:, 0])
    expected = (contribution.rows() if made is None else made).double().sum(0)
    torch.testing.assert_close(total.double(), expected, rtol=1e-4, atol=1e-6 * right.max().item() + 1e-44)


def outer(way: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Positions, inputs and outputs of layers for which this method is used."""
    monkeypatch.setattr("gradlab.stats.example_outer._LARGE", 1)
    return {"product": (1, 9, 7), "gram": (3, 24, 21), "rows": (5, 9, 7)}[way]


@scales
@given(exponents=exponents, seed=seeds)
def test_existing_gradients(exponents: list[int], seed: int) -> None:
    rows = gaussian(seed, 5, 40) * powers(exponents, 1)
    rows[seed % 5] = 0
    check(RowGradients(rows), rows.double())


@pytest.mark.parametrize("norm", [1e-44, 1e-40, 1e-38, 8e37])
def test_inverses_outside_float32(norm: float) -> None:
    rows = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 1.0]]) * torch.tensor([[norm], [1.0]])
    check(RowGradients(rows), rows.double())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("unread", [False, True])
def test_linear_layers(way: str, unread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors may have any scale if their products are within float32; `unread` is the path of accelerators."""
    length, inputs, outputs = outer(way, monkeypatch)

    @scales
    @given(exponents=exponents, shifts=st.lists(st.integers(-30, 30), min_size=5, max_size=5), seed=seeds)
    def holds(exponents: list[int], shifts: list[int], seed: int) -> None:
        shifts = [max(e - 36, -36, min(e + 36, 36, s)) for e, s in zip(exponents, shifts, strict=True)]
        a = gaussian(seed, 5, length, inputs) * powers(shifts, 1, 1)
        b = gaussian(seed + 1, 5, length, outputs) * powers(
            [e - s for e, s in zip(exponents, shifts, strict=True)], 1, 1
        )
        b[seed % 5] = 0
        contribution = OuterGradients(a, b)
        exact = torch.bmm(b.double().mT, a.double()).flatten(1)
        check(contribution, exact, found=contribution._reduced_unread() if unread and way != "rows" else None)

    holds()


@pytest.mark.parametrize("way", ["product", "gram"])
@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-11, 1e-10, 1e10, 1e18])
def test_products_outside_float32(way: str, unread: bool, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norms are those of the exact products, whatever the value of the sum."""
    length, inputs, outputs = outer(way, monkeypatch)
    a, b = gaussian(0, 4, length, inputs) * scale, gaussian(1, 4, length, outputs) * scale
    contribution = OuterGradients(a, b)
    found = contribution._reduced_unread() if unread else contribution.reduced(Workspace())
    check(contribution, torch.bmm(b.double().mT, a.double()).flatten(1), found=found)


def test_positions_of_different_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scales of the two factors compensate, differently at each position."""
    length, inputs, outputs = outer("gram", monkeypatch)
    shifts = torch.tensor([1e-28, 1.0, 1e24]).view(1, length, 1)
    a, b = gaussian(0, 6, length, inputs) * shifts, gaussian(1, 6, length, outputs) / shifts
    check(OuterGradients(a, b), torch.bmm(b.double().mT, a.double()).flatten(1))


def test_positions_that_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    length, inputs, outputs = outer("gram", monkeypatch)
    a, b = gaussian(0, 6, 1, inputs).repeat(1, length, 1), gaussian(1, 6, length, outputs)
    b[:, 0] = 1e-4 * b[:, 1] - b[:, 1] - b[:, 2]
    exact = torch.bmm(b.double().mT, a.double()).flatten(1)
    norms, *_ = OuterGradients(a, b).reduced(Workspace())
    np.testing.assert_allclose(norms, torch.linalg.vector_norm(exact, dim=1), rtol=1e-6)


def test_many_examples_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    for way in WAYS:
        length, inputs, outputs = outer(way, monkeypatch)
        a, b = gaussian(0, 6, length, inputs), gaussian(1, 6, length, outputs)
        a[::3], b[::2] = 0, 0
        check(OuterGradients(a, b), torch.bmm(b.double().mT, a.double()).flatten(1))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finite_stays_with_its_example(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    length, inputs, outputs = outer(way, monkeypatch)
    a, b = gaussian(0, 4, length, inputs), gaussian(1, 4, length, outputs) * 1e-25
    b[1], b[2] = math.inf, math.nan
    norms, sums, *_ = OuterGradients(a, b).reduced(Workspace())
    exact = torch.bmm(b.double().mT, a.double()).flatten(1)
    np.testing.assert_allclose(norms[[0, 3]], torch.linalg.vector_norm(exact[[0, 3]], dim=1), rtol=1e-6)
    assert not norms[1:3].isfinite().any()
    assert not sums.isfinite().any()


@pytest.mark.parametrize("kind", [GroupedGradients, ProductGradients])
@scales
@given(exponents=exponents, seed=seeds)
def test_convolutions(kind: type[ExampleContributions], exponents: list[int], seed: int) -> None:
    weight = (4, 3, 3, 3)
    x = gaussian(seed, 5, 3, 8, 8) * powers([e // 2 for e in exponents], 1, 1, 1)
    g = gaussian(seed + 1, 5, 4, 8, 8) * powers([e - e // 2 for e in exponents], 1, 1, 1)
    g[seed % 5] = 0
    geometry = Geometry(weight, (1, 1), (1, 1), (1, 1), 1)
    check(kind(x, g, geometry), kind(x.double(), g.double(), geometry).rows())


@pytest.mark.parametrize("way", WAYS)
@scales
@given(exponent=st.integers(-150, 150), seed=seeds)
def test_float64(way: str, exponent: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        length, inputs, outputs = outer(way, patch)
        a = gaussian(seed, 5, length, inputs).double()
        b = gaussian(seed + 1, 5, length, outputs).double() * 10.0**exponent
        b[seed % 5] = 0
        norms, sums, *_ = OuterGradients(a, b).reduced(Workspace())
        rows = torch.bmm(b.mT, a).flatten(1)
        np.testing.assert_allclose(norms, np.linalg.norm(rows / 10.0**exponent, axis=1) * 10.0**exponent, rtol=1e-10)
        unit = F.normalize(rows / 10.0**exponent, dim=1).sum(0)
        torch.testing.assert_close(sums[0, 1], unit, rtol=0, atol=1e-10)


def test_complex_gradients() -> None:
    for length in (1, 3, 5):
        a, b = (torch.complex(gaussian(i, 4, length, 6), gaussian(i + 2, 4, length, 6)) * 1e-14 for i in (0, 1))
        rows = torch.bmm(b.mT, a).flatten(1)
        for contribution in (OuterGradients(a, b), RowGradients(rows)):
            norms, sums, *_ = contribution.reduced(Workspace())
            exact = rows.to(torch.complex128)
            np.testing.assert_allclose(norms, exact.norm(dim=1), rtol=1e-6)
            expected = (exact / exact.norm(dim=1, keepdim=True)).sum(0)
            torch.testing.assert_close(sums[0, 1].to(torch.complex128), expected, rtol=0, atol=1e-5)
