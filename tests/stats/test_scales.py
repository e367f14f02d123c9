"""Moments and norms at any scale within the range of the dtype, against numpy in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradlab.stats import (
    CentredMoments,
    FastMoments,
    Workspace,
    gradient_diversity,
    gradient_variance,
    joint_norms,
    l2_norms,
    mean_cosine,
    row_norms,
    simple_noise_scale,
    true_gradient_square,
)
from gradlab.stats.example_convolutions import Geometry, convolution_gradients
from gradlab.stats.example_gradients import RowGradients
from gradlab.stats.example_outer import OuterGradients
from gradlab.stats.fast_moments import wide_row_sums
from gradlab.stats.memory_rows import FEW
from gradlab.stats.precision import unit_scaled

FORMS = {"centred": CentredMoments, "fast": FastMoments}
EXPONENTS = {torch.float32: 30, torch.bfloat16: 30, torch.float16: 4, torch.float64: 150}
LARGE = (128, 2, 32, 32)
"""Twice the number of elements below which sums are always in float64."""

scales = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 1 << 20)


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scaled(x: Tensor, exponent: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Make values up to about 10^exponent, scaled to the range of the dtype."""
    return (x.double() * 10.0 ** (exponent * EXPONENTS[dtype])).to(dtype)


def norm(x: Tensor) -> float:
    return float(np.linalg.norm(x.detach().double().numpy().ravel()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", EXPONENTS)
@scales
@given(exponent=st.floats(-1, 1), mean=st.floats(-8, 8), large=st.booleans(), seed=seeds)
def test_moments(form: str, dtype: torch.dtype, exponent: float, mean: float, large: bool, seed: int) -> None:
    values = gaussian(seed, *(LARGE if large else (7, 3, 5, 5))) + mean
    x = scaled(values, exponent if dtype is not torch.float16 else min(exponent, 0.8), dtype)
    accumulator = FORMS[form]()
    for part in x.split(len(x) // 2):
        accumulator.update(part)
    moments, array = accumulator.moments(), x.double().numpy()
    assert moments.non_finite == 0
    assert moments.std.item() == pytest.approx(array.std(), rel=1e-5 if dtype is torch.float16 else 1e-6)
    assert moments.mean.item() == pytest.approx(array.mean(), rel=1e-6, abs=1e-7 * array.std())
    assert moments.condition.item() == pytest.approx(abs(array.mean()) / array.std(), rel=1e-5, abs=1e-6)


@scales
@given(exponents=st.lists(st.floats(-1, 1), min_size=4, max_size=4), seed=seeds)
def test_channels_of_different_scales(exponents: list[float], seed: int) -> None:
    x = torch.stack([scaled(gaussian(seed + i, 64, 32, 32), e) for i, e in enumerate(exponents)], 1)
    x[:, 2] = 0
    x[0, 3, 0, :2] = torch.tensor([math.nan, math.inf])
    accumulator = FastMoments(1)
    accumulator.update(x)
    moments = accumulator.moments()
    assert moments.non_finite.tolist() == [0, 0, 0, 2]
    expected = [x[:, c][x[:, c].isfinite()].double().numpy().std() for c in range(4)]
    np.testing.assert_allclose(moments.std, expected, rtol=1e-6)


@scales
@given(exponents=st.lists(st.floats(-1, 1), min_size=2, max_size=6), seed=seeds)
def test_a_stream_of_different_scales(exponents: list[float], seed: int) -> None:
    """The first tensor is large enough for float32, the others are not."""
    parts = [scaled(gaussian(seed + i, FEW >> (3 * (i % 2))), e) for i, e in enumerate(exponents)]
    accumulator = FastMoments()
    for part in parts:
        accumulator.update(part)
    array = torch.cat(parts).double().numpy()
    assert accumulator.moments().std.item() == pytest.approx(array.std(), rel=1e-6)


@pytest.mark.parametrize("value", [1.0, 1e-30])
@pytest.mark.parametrize("shape", [(512, 512), (300007,), (3, 7)])
def test_expanded_values(shape: tuple[int, ...], value: float) -> None:
    x = torch.tensor(value).expand(shape)
    accumulator = FastMoments()
    accumulator.update(x)
    assert accumulator.moments().mean.item() == pytest.approx(value, rel=1e-6)
    assert l2_norms([row_norms(x)]).item() == pytest.approx(value * math.sqrt(x.numel()), rel=1e-6)
    assert joint_norms(x.reshape(1, 1, -1)).item() == pytest.approx(value * math.sqrt(x.numel()), rel=1e-6)


@pytest.mark.parametrize("shape", [(300007,), (3, 100003), (100003, 3), (7, 5, 4099)])
def test_lengths_that_have_no_even_parts(shape: tuple[int, ...]) -> None:
    x = (gaussian(0, *shape) + 2).bfloat16()
    accumulator = FastMoments()
    accumulator.update(x)
    assert accumulator.moments().count == x.numel()
    assert accumulator.moments().std.item() == pytest.approx(x.double().numpy().std(), rel=1e-6)
    assert l2_norms([row_norms(x)]).item() == pytest.approx(norm(x), rel=1e-6)


def test_zeros_have_no_spread() -> None:
    for value in (0.0, -0.0):
        accumulator = FastMoments()
        accumulator.update(torch.full(LARGE, value))
        assert accumulator.moments().std == accumulator.moments().mean == 0


@pytest.mark.parametrize("value", [1e-45, 1e-38, 3e38])
def test_two_values_at_the_ends_of_the_range(value: float) -> None:
    """If half of the values are 0 and half are a, the mean is a/2, and so is the std."""
    x = torch.zeros(LARGE)
    x[::2] = value
    for form in FORMS.values():
        accumulator = form()
        accumulator.update(x)
        half = x.max().item() / 2
        assert accumulator.moments().std.item() == pytest.approx(half, rel=1e-6)
        assert accumulator.moments().mean.item() == pytest.approx(half, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dim", [None, 1])
def test_complex_values(form: str, dim: int | None) -> None:
    z = torch.complex(gaussian(0, 6, 4, 9) * 1e-25 + 2e-25, gaussian(1, 6, 4, 9) * 3e-25 - 1e-25)
    accumulator = FORMS[form](dim)
    for part in z.split(2):
        accumulator.update(part)
    axes = None if dim is None else (0, 2)
    array = z.to(torch.complex128).numpy()
    np.testing.assert_allclose(accumulator.moments().std, array.std(axis=axes), rtol=1e-6)
    np.testing.assert_allclose(accumulator.moments().mean, abs(array.mean(axis=axes)), rtol=1e-6)
    accumulator.update(torch.full((1, 4, 1), complex(0, math.inf)))
    assert accumulator.moments().non_finite.sum() == 4
    np.testing.assert_allclose(accumulator.moments().std, array.std(axis=axes), rtol=1e-6)


@pytest.mark.parametrize("dtype", EXPONENTS)
@scales
@given(exponent=st.floats(-1, 1), n=st.sampled_from([5, 4096, FEW, FEW + 1, 3 * FEW]), seed=seeds)
def test_row_norms(dtype: torch.dtype, exponent: float, n: int, seed: int) -> None:
    x = scaled(gaussian(seed, n), min(exponent, 0.8), dtype)
    assert l2_norms([row_norms(x)]).item() == pytest.approx(norm(x), rel=1e-6)
    assert l2_norms([x]).item() == pytest.approx(norm(x), rel=1e-6)


@scales
@given(low=st.floats(-1, 1), high=st.floats(-1, 1), few=st.integers(1, 4000), seed=seeds)
def test_row_norms_of_mixed_scales(low: float, high: float, few: int, seed: int) -> None:
    x = scaled(gaussian(seed, 2 * FEW), low)
    x[:few] = scaled(gaussian(seed + 1, few), high)
    x[few : 3 * few] = 0
    for form in (x, x.view(2, -1).T, torch.complex(x[::2], x[1::2])):
        assert l2_norms([row_norms(form)]).item() == pytest.approx(norm(x), rel=4e-6)


def test_a_large_value_among_small_ones() -> None:
    """The small squares are just under half an ulp of the large one's, which is first in its row."""
    x = torch.full((256, 1024), 2.4e-4)
    x[:, 0] = 1
    assert l2_norms([row_norms(x)]).item() == pytest.approx(norm(x), rel=4e-6)
    assert joint_norms(x.view(1, 1, -1)).item() == pytest.approx(norm(x), rel=4e-6)


@scales
@given(
    exponents=st.lists(st.floats(-1.45, 1.2), min_size=1, max_size=7),
    k=st.integers(1, 3),
    p=st.sampled_from([1, 10, 9216, 4099]),
    seed=seeds,
)
def test_joint_norms_of_rows_of_different_scales(exponents: list[float], k: int, p: int, seed: int) -> None:
    """Rows range from subnormal numbers, which have few digits, to the end of float32's range."""
    rows = [scaled(gaussian(seed + i, k, p), e) for i, e in enumerate(exponents)]
    pieces = torch.stack([*rows, torch.zeros(k, p)], 1)
    expected = [norm(row) for row in rows]
    np.testing.assert_allclose(joint_norms(pieces), [*expected, 0], rtol=1e-6)
    z = torch.complex(pieces, -pieces)
    np.testing.assert_allclose(joint_norms(z)[:-1], np.sqrt(2) * np.array(expected), rtol=1e-6)
    np.testing.assert_allclose(joint_norms(pieces.double()), [*expected, 0], rtol=1e-6)


def test_joint_norms_are_not_finite_where_an_element_is_not() -> None:
    pieces = torch.ones(2, 4, 5)
    pieces[1, 1, 3], pieces[0, 2, 0], pieces[:, 3] = math.nan, math.inf, 1e-25
    found = joint_norms(pieces)
    assert found[1].isnan()
    assert found[2] == math.inf
    np.testing.assert_allclose(found[[0, 3]], [math.sqrt(10), math.sqrt(10) * 1e-25], rtol=1e-6)
    assert joint_norms(torch.ones(1, 0, 5)).shape == (0,)


def test_norms_of_all_kinds_of_tensors() -> None:
    x = gaussian(0, 6, 8)
    sparse = x * (x > 1)
    indices = torch.tensor([[0, 0, 2]])
    kinds = [
        (torch.tensor([3, -4], dtype=torch.int8), 5.0),
        (torch.tensor([200, 0, 100], dtype=torch.uint8), math.hypot(200, 100)),
        (torch.tensor([True, False, True, True, True]), 2.0),
        (torch.tensor([3 + 4j, 0, 12j]), 13.0),
        (torch.tensor([3e-30 + 4e-30j, 12e-30j]).conj(), 13e-30),
        (torch.empty(0), 0.0),
        (torch.empty(4, 0, dtype=torch.float16), 0.0),
        (torch.tensor([65504.0] * 4, dtype=torch.float16), 2 * 65504.0),
        (torch.tensor([2.0**-24] * 4, dtype=torch.float16), 2.0**-23),
        (torch.tensor([1.0, -2.0, 2.0]).to(torch.float8_e4m3fn), 3.0),
        (x[:, ::3], norm(x[:, ::3])),
        (x.T.expand(3, -1, -1), math.sqrt(3) * norm(x)),
        (sparse.to_sparse(), norm(sparse)),
        (sparse.to_sparse_csr(), norm(sparse)),
        (torch.sparse_coo_tensor(indices, torch.tensor([1e-30, 2e-30, 4e-30])), 5e-30),
        (torch.tensor(-2e-30), 2e-30),
    ]
    found = l2_norms([tensor for tensor, _ in kinds])
    assert found.dtype is torch.float64
    np.testing.assert_allclose(found, [expected for _, expected in kinds], rtol=1e-6)


@scales
@given(exponent=st.floats(-1, 1), seed=seeds)
def test_values_are_scaled_by_powers_of_two(exponent: float, seed: int) -> None:
    x = scaled(gaussian(seed, 4, 3, 5), exponent)
    x[1], x[2, 0, 0], x[3] = 0, math.inf, 1e-45
    values, factors = unit_scaled(x, (1, 2))
    assert torch.equal(values * factors, x)
    assert 1 <= values[0].abs().max() < 2
    assert factors[1:3].flatten().tolist() == [1, 1]


@scales
@given(exponent=st.floats(-1, 1), seed=seeds)
def test_rows_are_summed_alike_where_nothing_is_read(exponent: float, seed: int) -> None:
    """This is the path of accelerators."""
    rows = scaled(gaussian(seed, 9, 40) + 1, exponent)
    rows[0, 0], rows[1, 2] = math.nan, -math.inf
    sums, norms, lost = wide_row_sums(rows)
    finite = rows.double().nan_to_num(0.0, 0.0, 0.0).numpy()
    np.testing.assert_allclose(sums, finite.sum(1), rtol=1e-12)
    np.testing.assert_allclose(norms, (finite**2).sum(1) ** 0.5, rtol=1e-12)
    assert lost.tolist() == [1, 1, *[0] * 7]


@pytest.mark.parametrize("channel_dim", [None, 1])
def test_no_value_is_read_off_the_device(channel_dim: int | None) -> None:
    """Tensors without values would raise."""
    x = torch.empty(LARGE, device="meta")
    accumulator = FastMoments(channel_dim)
    for _ in range(3):
        accumulator.update(x)
    assert accumulator.moments().std.shape == (() if channel_dim is None else (2,))
    assert l2_norms([row_norms(x), x, x.half()]).shape == (3,)
    assert joint_norms(x.flatten(2)).shape == (2,)
    contributions = [
        RowGradients(x.flatten(1)),
        OuterGradients(x[:, 0, :1], x[:, 1, :1]),
        OuterGradients(x[:, 0, :2].repeat(1, 1, 9), x[:, 1, :2]),
        OuterGradients(x[:, 0], x[:, 1]),
        convolution_gradients(x, x, Geometry((2, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1)),
    ]
    for contribution in contributions:
        norms, *_ = contribution.reduced(Workspace())
        assert norms.shape == (128,)


@scales
@given(exponent=st.floats(-1, 1), single=st.booleans(), seed=seeds)
def test_gradient_noise(exponent: float, single: bool, seed: int) -> None:
    """If gradients are scaled by c, a statistic scales by c² or not at all."""
    dtype = torch.float32 if single else torch.float64
    c = 10.0 ** (exponent * EXPONENTS[dtype])
    gradients = gaussian(seed, 2, 6, 4).double()
    gradients[1, 3] = 0

    def statistics(scale: float) -> tuple[list[Tensor], list[Tensor]]:
        norms = gradients.norm(dim=2)
        directions = (gradients / norms.where(norms > 0, 1)[..., None]).sum(1).norm(dim=1)
        norms, mean = ((t * scale).to(dtype) for t in (norms, gradients.mean(1).norm(dim=1)))
        variance, square = gradient_variance(norms, mean), true_gradient_square(norms, mean)
        same = [gradient_diversity(norms, mean), mean_cosine(norms, directions), simple_noise_scale(variance, square)]
        return same, [variance, square]

    for found, expected in zip(statistics(c)[0], statistics(1.0)[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4 if single else 1e-10, atol=0, equal_nan=True)
    for found, expected in zip(statistics(c)[1], statistics(1.0)[1], strict=True):
        assert found.dtype is torch.float64
        torch.testing.assert_close(found / c / c, expected, rtol=1e-4 if single else 1e-10, atol=1e-7)
