"""The compiled sums against exact ones."""

import math

import pytest
import torch

from gradlab.stats import fast_moments, native

needs_compiler = pytest.mark.skipif(native._library() is None, reason="there is no C compiler")


def values(*shape, scale=1.0, mean=0.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) * scale + mean


@needs_compiler
@pytest.mark.parametrize("n", [1, 7, 31, 32, 33, 1000, 4099])
@pytest.mark.parametrize(("scale", "mean"), [(1, 0), (1e-30, 0), (5e37, 0), (1, 1e4)])
def test_sums_are_exact_to_the_rounding_of_a_double(n, scale, mean):
    x = values(n, scale=scale, mean=mean)
    listed = x.tolist()
    total, squares = native.sums(x)
    assert total == pytest.approx(math.fsum(listed), rel=1e-12, abs=1e-13 * math.fsum(map(abs, listed)))
    assert squares == pytest.approx(math.fsum(v * v for v in listed), rel=1e-13)


@needs_compiler
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((3, 5, 4, 6), 1), ((2, 16, 3, 3), 1), ((2, 40, 5, 1), 1), ((6, 17), -1), ((4, 3, 33), -1), ((5, 7), 0)],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channels(shape, dim, layout):
    if layout is torch.channels_last and len(shape) != 4:
        pytest.skip("channels_last has four dimensions")
    x = values(*shape, mean=2.0).contiguous(memory_format=layout)
    wide = x.double().movedim(dim, 0).flatten(1)
    found = native.channel_sums(x, dim)
    torch.testing.assert_close(found, torch.stack((wide.sum(1), wide.square().sum(1))), rtol=1e-13, atol=1e-13)


@needs_compiler
def test_what_it_does_not_serve():
    x = values(4, 6)
    for other in (x.double(), x.half(), x[:, ::2], x.t()[::2], x.new_empty(0, 3), x.to_sparse(), x.to("meta")):
        assert native.sums(other) is None
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = x.clone()
        spoilt[2, 3] = bad
        assert native.sums(spoilt) is None
        assert native.channel_sums(spoilt, 1) is None


@needs_compiler
@pytest.mark.parametrize("dim", [None, 1])
@pytest.mark.parametrize("mean", [0, 3])
def test_moments_are_those_of_torch_s_own_operations(dim, mean, monkeypatch):
    x = values(40, 8, 21, 21, mean=mean)
    fast = fast_moments(x, dim)
    monkeypatch.setattr(native, "_library", lambda: None)
    plain = fast_moments(x, dim)
    for name in ("count", "mean", "m2", "non_finite"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), rtol=2e-6, atol=1e-7)


@needs_compiler
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("mean", [0, 1000])
def test_normalization_by_batch_statistics(layout, affine, mean):
    x = values(6, 18, 5, 7, mean=mean).contiguous(memory_format=layout)
    weight, bias = (values(18) + 2, values(18, scale=3)) if affine else (None, None)
    statistics, mean, variance = native.normalization(x, weight, bias, 1e-5)
    wide = x.double()
    torch.testing.assert_close(statistics[0], wide.mean((0, 2, 3)).float(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(statistics[1], wide.var((0, 2, 3), correction=0).float(), rtol=1e-6, atol=0)
    given = [None if value is None else value.double() for value in (weight, bias)]
    out = torch.nn.functional.batch_norm(wide, None, None, *given, True, 0.0, 1e-5)
    assert (mean, variance) == pytest.approx((out.mean().item(), out.var(correction=0).item()), rel=1e-10, abs=1e-12)
