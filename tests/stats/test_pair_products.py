"""Inner products of the gradients of every two examples, against explicit gradients in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradlab.stats import ExampleContributions, OuterGradients, RowGradients, Workspace
from gradlab.stats.example_convolutions import Geometry, GroupedGradients, ProductGradients
from gradlab.stats.example_embeddings import EmbeddingGradients
from gradlab.stats.pair_products import PairProducts, mean_pair_cosine, position_products

EXAMPLES = 7


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def outer(length: int, dtype: torch.dtype = torch.float64) -> OuterGradients:
    return OuterGradients(draw(EXAMPLES, length, 5, dtype=dtype), draw(EXAMPLES, length, 8, dtype=dtype))


def convolution(kind: type[GroupedGradients] | type[ProductGradients]) -> ExampleContributions:
    geometry = Geometry((4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 2)
    return kind(draw(EXAMPLES, 6, 5, 5), draw(EXAMPLES, 4, 5, 5), geometry)


def embedding() -> ExampleContributions:
    ids = torch.randint(6, (EXAMPLES, 4), generator=torch.Generator().manual_seed(0))
    return EmbeddingGradients(ids, draw(EXAMPLES, 4, 3), 6)


MADE: dict[str, Callable[[], ExampleContributions]] = {
    "rows": lambda: RowGradients(draw(EXAMPLES, 30)),
    "complex rows": lambda: RowGradients(draw(EXAMPLES, 30, dtype=torch.complex128)),
    "one position": lambda: outer(1),
    "complex, one position": lambda: outer(1, torch.complex128),
    "few positions": lambda: outer(3),
    "many positions": lambda: outer(40),
    "grouped convolution": lambda: convolution(GroupedGradients),
    "convolution by products": lambda: convolution(ProductGradients),
    "embedding": embedding,
}


@pytest.mark.parametrize("values", [1 << 24, 100], ids=["at once", "in parts"])
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_every_kind_of_gradient(
    make: Callable[[], ExampleContributions], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradlab.stats.example_gradients._VALUES", values)
    monkeypatch.setattr("gradlab.stats.pair_products._VALUES", values)
    monkeypatch.setattr("gradlab.stats.example_outer._LARGE", 1)
    contribution, products = make(), PairProducts(EXAMPLES)
    rows = contribution.rows()
    expected = (rows.conj() @ rows.T).real
    # What is added twice counts twice.
    for _ in range(2):
        contribution.reduced(Workspace(), products)
    torch.testing.assert_close(products.total, 2 * expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("length", [1, 3, 40])
def test_products_leave_the_range_of_float32(length: int, scale: float) -> None:
    """One example's gradient is ordinary, the others' are not; their cosines are those of float64."""
    a, b = draw(EXAMPLES, length, 5), draw(EXAMPLES, length, 8)
    b[1:] *= scale
    products = PairProducts(EXAMPLES)
    norms, *_ = OuterGradients(a.float(), b.float()).reduced(Workspace(), products)
    rows = torch.einsum("bti,bto->bio", a.float().double(), b.float().double()).flatten(1)
    unit = rows / rows.norm(dim=1, keepdim=True)
    assert products.total is not None
    found = products.total / norms[:, None] / norms
    np.testing.assert_allclose(found, unit @ unit.T, atol=1e-6)


@pytest.mark.parametrize("zero", [False, True], ids=["", "an example without a gradient"])
@pytest.mark.parametrize("way", ["rows", "more outputs", "more inputs", "embedding"])
def test_the_sum_of_directions_follows_from_the_products(way: str, zero: bool) -> None:
    a, b = draw(EXAMPLES, 40, 160, dtype=torch.float32), draw(EXAMPLES, 40, 256, dtype=torch.float32).cumsum(2)
    if zero:
        b[3] = 0
    ids = torch.randint(9, (EXAMPLES, 40), generator=torch.Generator().manual_seed(0))
    made: dict[str, ExampleContributions] = {
        "rows": RowGradients(b.flatten(1)),
        "more outputs": OuterGradients(a, b),
        "more inputs": OuterGradients(b, a),
        "embedding": EmbeddingGradients(ids, b, 9),
    }
    contribution, products = made[way], PairProducts(EXAMPLES)
    rows = contribution.rows().double()
    norms, sums, direction_norm, _ = contribution.reduced(Workspace(), products)
    np.testing.assert_allclose(norms, rows.norm(dim=1), rtol=1e-6)
    total = contribution.in_order(sums[:, 0]).double()
    torch.testing.assert_close(total, rows.sum(0), rtol=0, atol=1e-6 * rows.norm().item())
    expected = F.normalize(rows, dim=1).sum(0).norm()
    found = sums[:, 1].double().norm() if direction_norm is None else direction_norm
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert products.total is not None
    off = (products.total - rows @ rows.T).abs() / (norms[:, None] * norms).clamp(min=1e-30)
    assert off.max() < 1e-6
    assert zero or direction_norm is not None


@pytest.mark.parametrize("examples", [64, 70, 128])
def test_products_of_many_examples(examples: int) -> None:
    products, rows = PairProducts(examples), draw(examples, 40)
    RowGradients(rows).reduced(Workspace(), products)
    torch.testing.assert_close(products.total, rows @ rows.T, rtol=1e-12, atol=1e-12)


def test_the_mean_cosine_leaves_out_gradients_of_zero() -> None:
    rows = draw(5, 20)
    rows[2] = 0
    unit = F.normalize(rows[[0, 1, 3, 4]], dim=1)
    expected = ((unit @ unit.T).sum() - 4) / 12
    torch.testing.assert_close(mean_pair_cosine(rows @ rows.T, rows.norm(dim=1)), expected)


@pytest.mark.parametrize("kept", [0, 1])
def test_one_gradient_has_no_cosine(kept: int) -> None:
    rows = draw(3, 4)
    rows[kept:] = 0
    assert math.isnan(mean_pair_cosine(rows @ rows.T, rows.norm(dim=1)))


def test_what_is_not_finite_makes_the_mean_cosine_missing() -> None:
    rows = draw(3, 4)
    rows[1, 2] = math.nan
    assert math.isnan(mean_pair_cosine(rows @ rows.T, rows.norm(dim=1)))


def test_half_precision_is_multiplied_in_float32() -> None:
    a, b = draw(3, 2, 64).bfloat16(), draw(3, 2, 32).bfloat16()
    rows = torch.einsum("bti,bto->bio", a.double(), b.double()).flatten(1)
    torch.testing.assert_close(position_products([a, b]).double(), rows @ rows.T, rtol=1e-5, atol=1e-3)
