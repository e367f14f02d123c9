"""Counts of active paths against the laws of coin flips."""

import pytest
import torch

from gradlab import stats


@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize("beta", [None, 1.0, 0.5])
def test_counting_paths_through_coin_flips_gives_the_laws(depth, beta):
    """The mean over masks at a width of 8 obeys the laws, which hold at any width."""
    generator = torch.Generator().manual_seed(depth)
    masks = (torch.rand(40_000, depth, 8, 2, generator=generator) < 0.5).double()
    fractions = stats.coactive_fractions(masks).transpose(0, 1)
    log_paths = stats.log_path_counts(fractions, torch.ones(depth, 40_000), residual=beta)[-1]
    moments = log_paths.exp().mean(0)
    expected = (stats.feedforward_law if beta is None else lambda d: stats.residual_law(d, beta))(torch.tensor(depth))
    spread = log_paths.exp().std(0) / 200
    both = expected * (1 if beta is None else stats.residual_variance(torch.tensor(depth), beta))
    assert abs(moments[2] - both) <= 4.5 * spread[2] + 1e-12


def test_path_correlation_reaches_far_below_sampling():
    half = torch.tensor([0.5, 0.5, 0.25]).expand(128, 3, 3)
    log_paths = stats.log_path_counts(half, torch.ones(128, 3))[-1]
    assert stats.path_correlation(log_paths).item() == pytest.approx(2.0**-128)
