"""Moments against numpy in float64 and exact rationals."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.stats import CentredMoments, FastMoments, Moments, centred_moments, fast_moments
from gradlab.stats.host_moments import host_moments

FORMS = {"centred": CentredMoments, "fast": FastMoments}


def gaussian(*shape: int, mean: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean


def streamed(form: str, parts: list[torch.Tensor], channel_dim: int | None = None) -> Moments:
    accumulator = FORMS[form](channel_dim)
    for part in parts:
        accumulator.update(part)
    return accumulator.moments()


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=60))
def test_centred_equals_exact_rationals(values: list[int]) -> None:
    n = len(values)
    mean = Fraction(sum(values), n)
    variance = sum((v - mean) ** 2 for v in values) / n
    moments = centred_moments(torch.tensor(values, dtype=torch.float32))
    assert moments.count.item() == n
    assert moments.mean.item() == pytest.approx(float(mean), rel=1e-14, abs=1e-13)
    assert moments.variance.item() == pytest.approx(float(variance), rel=1e-12, abs=1e-18)


def test_centred_is_exact_far_from_zero() -> None:
    x = gaussian(64, 3, 32, 32, mean=300)
    expected = np.std(x.numpy().astype(np.float64))
    assert centred_moments(x).std.item() == pytest.approx(expected, rel=1e-6)
    assert centred_moments(x).std.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("shape", [(128, 16, 32, 32), (100, 64, 8, 8), (500, 10), (7, 3, 5, 5)])
def test_fast_is_good_to_1e6_while_well_conditioned(mean: float, shape: tuple[int, ...]) -> None:
    x = gaussian(*shape, mean=mean)
    moments = fast_moments(x)
    assert moments.std.item() == pytest.approx(np.std(x.numpy().astype(np.float64)), rel=1e-6)
    assert moments.mean.item() == pytest.approx(x.double().mean().item(), rel=1e-6, abs=1e-8)


def test_condition_tells_where_the_fast_form_fails() -> None:
    x = gaussian(64, 16, 16, 16, mean=300)
    assert fast_moments(x).condition.item() == pytest.approx(300, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 199), max_size=6, unique=True),
    mean=st.floats(-2, 2),
    seed=st.integers(0, 1000),
)
@pytest.mark.parametrize(("form", "tolerance"), [("centred", 1e-12), ("fast", 1e-7)])
def test_any_split_into_batches_is_the_same(
    form: str, tolerance: float, cuts: list[int], mean: float, seed: int
) -> None:
    x = gaussian(200, 3, 4, 4, mean=mean, seed=seed)
    whole = streamed(form, [x])
    parts = streamed(form, list(torch.tensor_split(x, sorted(cuts))))
    assert parts.count == whole.count
    assert parts.std.item() == pytest.approx(whole.std.item(), rel=tolerance)
    assert parts.mean.item() == pytest.approx(whole.mean.item(), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "dim"), [((8, 5, 6, 7), 1), ((8, 5), -1), ((8, 9, 5), -1), ((5, 40), 0)])
def test_channels(form: str, shape: tuple[int, ...], dim: int) -> None:
    x = gaussian(*shape, mean=0.5)
    axes = tuple(i for i in range(len(shape)) if i != dim % len(shape))
    moments = streamed(form, [x[:3], x[3:]] if dim != 0 else [x[:, :3], x[:, 3:]], dim)
    array = x.numpy().astype(np.float64)
    np.testing.assert_allclose(moments.std, array.std(axis=axes), rtol=1e-6)
    np.testing.assert_allclose(moments.mean, array.mean(axis=axes), rtol=1e-5, atol=1e-7)
    pooled = moments.pooled()
    assert pooled.std.item() == pytest.approx(array.std(), rel=1e-6)
    assert pooled.count.item() == x.numel()


@pytest.mark.parametrize("form", FORMS)
def test_memory_layout_does_not_matter(form: str) -> None:
    x = gaussian(16, 8, 12, 12, mean=0.2)
    expected = streamed(form, [x]).std.item()
    for other in (x.contiguous(memory_format=torch.channels_last), x.permute(3, 1, 0, 2), x.flip(0)):
        assert streamed(form, [other]).std.item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_accumulated_in_single_or_better(form: str, dtype: torch.dtype) -> None:
    x = (gaussian(64, 16, 16, 16, mean=2) * 30).to(dtype)  # the sum of squares is far beyond float16
    moments = streamed(form, [x])
    assert moments.std.item() == pytest.approx(np.std(x.double().numpy()), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dim", [None, 1])
def test_non_finite_values_are_counted_and_left_out(form: str, dim: int | None) -> None:
    x = gaussian(32, 4, 6, 6)
    x[0, 0, 0, 0], x[3, 1, 2, 2], x[3, 1, 2, 3] = float("nan"), float("inf"), -float("inf")
    moments = streamed(form, [x[:8], x[8:]], dim)
    if dim == 1:
        assert moments.non_finite.tolist() == [1, 2, 0, 0]
        moments = moments.pooled()
    finite = x[x.isfinite()].double()
    assert (moments.non_finite.item(), moments.count.item()) == (3, x.numel() - 3)
    assert moments.std.item() == pytest.approx(finite.std(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_squares_beyond_single_precision(form: str) -> None:
    x = gaussian(4, 3, 8, 8) * 1e25
    assert streamed(form, [x]).std.item() == pytest.approx(np.std(x.double().numpy()), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_and_nothing_finite(form: str) -> None:
    for x in (torch.empty(0, 3, 4, 4), torch.full((2, 3, 4, 4), float("nan"))):
        moments = streamed(form, [x])
        assert moments.count.item() == 0
        assert moments.std.isnan()
    after = streamed(form, [torch.full((2, 3), float("nan")), torch.tensor([[1.0, 3.0]])])
    assert after.mean.item() == 2.0
    assert after.std.item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_constants_have_no_spread(form: str) -> None:
    moments = streamed(form, [torch.full((10, 3, 8, 8), 2.5)] * 3)
    assert moments.mean.item() == pytest.approx(2.5, rel=1e-7)
    assert moments.std.item() == pytest.approx(0, abs=2e-3)
    assert streamed("centred", [torch.full((10, 3), 0.1)]).std.item() == 0


def test_inputs_that_need_gradients_leave_no_graph() -> None:
    x = torch.ones(4, 4, requires_grad=True)
    assert not fast_moments(x).std.requires_grad
    assert not centred_moments(x).std.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(128, 16, 32, 32), (100, 64, 8, 8), (500, 10), (7, 3, 5, 5), (1,), ()], ids=str)
def test_moments_as_plain_numbers(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    parts = [(gaussian(*shape, mean=2, seed=seed) if shape else torch.tensor(2.0 + seed)).to(dtype) for seed in (0, 1)]
    found = host_moments(parts[0]).merge(host_moments(parts[1].new_empty(0))).merge(host_moments(parts[1]))
    exact = torch.stack(parts).double()
    assert found.count == exact.numel()
    assert found.mean == pytest.approx(exact.mean().item(), rel=1e-6)
    assert found.std == pytest.approx(exact.std(correction=0).item(), rel=1e-6 if dtype.itemsize > 2 else 1e-5)
    assert found.largest == exact.abs().max().item()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_plain_numbers_of_any_scale_without_what_is_not_finite(scale: float) -> None:
    x = scale * gaussian(64, 3, 33, 32)
    whole = host_moments(x)
    assert whole.std == pytest.approx(x.double().std(correction=0).item(), rel=1e-6)
    x[0, 0, 0, :2], x[5, 1, 2, 3] = math.inf, math.nan
    found, finite = host_moments(x), x[x.isfinite()].double()
    assert (found.count, found.non_finite) == (finite.numel(), 3)
    assert found.mean == pytest.approx(finite.mean().item(), rel=1e-6)
    assert found.std == pytest.approx(finite.std(correction=0).item(), rel=1e-6)
    assert math.isnan(found.largest)
    assert math.isnan(found.merge(whole).largest)
    assert math.isnan(host_moments(x[:0]).std)
