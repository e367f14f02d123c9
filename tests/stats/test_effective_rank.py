import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.stats import (
    cosines,
    effective_rank,
    noise_effective_rank,
    relative_effective_rank,
    row_norm_variation,
    unit_rows,
)

SHAPES = [(2, 2), (3, 7), (7, 3), (20, 100), (1, 5)]


def gaussian(n, p, seed=0):
    return torch.randn(n, p, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("p", [40, 60])
def test_orthonormal_rows_have_rank_n(n, p):
    assert effective_rank(torch.eye(n, p)).item() == pytest.approx(n, abs=1e-12)


@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_rank_one(n, p):
    assert effective_rank(gaussian(n, 1) @ gaussian(1, p, seed=1)).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_is_the_ratio_of_squared_singular_values(n, p):
    d = gaussian(n, p)
    squares = np.linalg.svd(d.numpy(), compute_uv=False) ** 2
    assert effective_rank(d).item() == pytest.approx(squares.sum() / squares[0], rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 8),
    p=st.integers(1, 8),
    seed=st.integers(0, 1000),
    exponent=st.integers(-300, 300),
    sign=st.booleans(),
)
def test_scale_and_rotation_change_nothing(n, p, seed, exponent, sign):
    d = gaussian(n, p, seed)
    scale = (-1.0 if sign else 1.0) * 10.0**exponent
    left = torch.linalg.qr(gaussian(n, n, seed + 1))[0]
    right = torch.linalg.qr(gaussian(p, p, seed + 2))[0]
    expected = effective_rank(d).item()
    assert effective_rank(scale * d).item() == pytest.approx(expected, rel=1e-10)
    assert effective_rank(left @ d @ right).item() == pytest.approx(expected, rel=1e-10)
    assert 1 - 1e-12 <= expected <= min(n, p) + 1e-12


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 8), p=st.integers(2, 8), seed=st.integers(0, 1000))
def test_norms_of_rows_change_nothing_of_unit_rows(n, p, seed):
    d = gaussian(n, p, seed)
    scaled = d * torch.logspace(-3, 3, n, dtype=torch.float64)[:, None]
    assert relative_effective_rank(scaled).item() == pytest.approx(relative_effective_rank(d).item(), rel=1e-10)
    torch.testing.assert_close(cosines(scaled), cosines(d), rtol=0, atol=1e-12)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize(("n", "p"), [(4, 4), (30, 300), (300, 30)])
def test_gaussian_noise_has_relative_rank_one(n, p, unit):
    values = [relative_effective_rank(gaussian(n, p, seed), unit=unit).item() for seed in range(1000, 1040)]
    # The reference is a mean of 1,000 draws and this one of 40; every draw has the same variance.
    error = np.std(values, ddof=1) * math.sqrt(1 / 1000 + 1 / 40)
    assert abs(np.mean(values) - 1) < 4 * error


@pytest.mark.parametrize(("n", "p"), [(100, 3072), (400, 1600), (1600, 400)])
def test_noise_obeys_the_law_of_the_largest_eigenvalue(n, p):
    # Johnstone 2001, "On the distribution of the largest eigenvalue in PCA", Theorem 1.1; mean of Tracy-Widom 1.
    small, large = min(n, p), max(n, p)
    centre = (math.sqrt(large - 1) + math.sqrt(small)) ** 2
    scale = (math.sqrt(large - 1) + math.sqrt(small)) * (1 / math.sqrt(large - 1) + 1 / math.sqrt(small)) ** (1 / 3)
    expected = n * p / (centre - 1.2065336 * scale)
    assert noise_effective_rank(n, p, unit=False, draws=8) == pytest.approx(expected, rel=0.01)


def test_one_large_norm_dominates_raw_rows_but_not_unit_rows():
    d = torch.eye(10, 50)
    d[0] *= 1000
    assert effective_rank(d).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(unit_rows(d)).item() == pytest.approx(10, abs=1e-12)


def test_cosines_by_hand():
    d = torch.tensor([[1.0, 0.0], [3.0, 3.0], [-2.0, 0.0]])
    half = math.sqrt(0.5)
    torch.testing.assert_close(cosines(d), torch.tensor([half, -1.0, -half], dtype=torch.float64))


def test_cosines_pair_by_pair():
    d = gaussian(6, 9)
    pairs = [(d[i] @ d[j]) / (d[i].norm() * d[j].norm()) for i in range(6) for j in range(i + 1, 6)]
    torch.testing.assert_close(cosines(d.float()), torch.stack(pairs), rtol=0, atol=1e-6)
    torch.testing.assert_close(cosines(d), torch.stack(pairs), rtol=0, atol=1e-14)


def test_norm_variation_by_hand():
    # Norms 5 and 1: mean 3, population std 2.
    assert row_norm_variation(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item() == pytest.approx(2 / 3, abs=1e-15)
    assert row_norm_variation(torch.eye(4)).item() == 0


def test_a_row_of_zeros_is_kept():
    assert unit_rows(torch.tensor([[0.0, 0.0], [0.0, 2.0]])).tolist() == [[0, 0], [0, 1]]
    assert math.isnan(effective_rank(torch.zeros(3, 4)).item())


def test_half_precision_is_read_and_computed_in_float64():
    d = gaussian(4, 6).bfloat16()
    assert effective_rank(d).dtype == torch.float64
    assert effective_rank(d).item() == effective_rank(d.double()).item()
