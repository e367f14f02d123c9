import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.stats import segment_autocorrelation


def gaussian(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(g, lags):
    """Evaluate the definition term by term."""
    g = g.double().numpy()
    centred = g - g.mean(0)
    total = sum(float(c @ c) for c in centred)
    return [sum(float(centred[t] @ centred[t + k]) for t in range(len(g) - k)) / total for k in range(lags + 1)]


@pytest.mark.parametrize(("m", "p"), [(2, 1), (5, 3), (30, 4), (12, 200)])
def test_against_the_definition(m, p):
    g = gaussian(m, p) + 3
    acf, power = segment_autocorrelation(g, m - 1)
    assert acf.dtype == torch.float64
    np.testing.assert_allclose(acf, by_hand(g, m - 1), rtol=0, atol=1e-12)
    assert power == pytest.approx((g - g.mean(0)).square().sum().item())
    assert acf[0] == 1


@settings(deadline=None, max_examples=40)
@given(m=st.integers(2, 30), p=st.integers(1, 6), seed=st.integers(0, 1000))
def test_lags_sum_to_minus_a_half_and_reversal_shift_and_rotation_change_nothing(m, p, seed):
    g = gaussian(m, p, seed=seed)
    acf, _ = segment_autocorrelation(g, m - 1)
    assert acf[1:].sum().item() == pytest.approx(-0.5, abs=1e-9)
    rotation = torch.linalg.qr(gaussian(p, p, seed=seed + 1))[0]
    other, _ = segment_autocorrelation(-7 * g.flip(0) @ rotation + gaussian(p, seed=seed + 2), m - 1)
    torch.testing.assert_close(other, acf, rtol=0, atol=1e-9)


def test_white_noise():
    m, p = 64, 4000
    acf, _ = segment_autocorrelation(gaussian(m, p), 20)
    expected = [-(m - k) / (m * (m - 1)) for k in range(1, 21)]
    np.testing.assert_allclose(acf[1:], expected, rtol=0, atol=5 / np.sqrt(m * p))


def test_brownian_motion_is_the_pooled_law():
    m, p = 256, 20_000
    kappa = np.arange(21) / m
    acf, _ = segment_autocorrelation(gaussian(m, p).cumsum(0), 20)
    np.testing.assert_allclose(acf, 1 - 5 * kappa + 6 * kappa**2 - 2 * kappa**3, rtol=0, atol=0.01)


def test_a_single_step():
    # A single step at M/2, as for the bias-free 1-d net, has autocorrelation 1 − 3k/M.
    m = 256
    step = (torch.arange(m) >= m // 2).double()[:, None].repeat(1, 3)
    acf, _ = segment_autocorrelation(step, 20)
    np.testing.assert_allclose(acf, 1 - 3 * np.arange(21) / m, rtol=0, atol=1e-12)


def test_a_constant_signal_has_autocorrelation_one():
    noise = 1e-9 * gaussian(50, 8)
    acf, power = segment_autocorrelation(torch.ones(50, 8) + noise, 5)
    assert power == 0
    assert acf.tolist() == [1] * 6
    assert segment_autocorrelation(torch.zeros(4, 2), 2) == (pytest.approx([1, 1, 1]), 0)
