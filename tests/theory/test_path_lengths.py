"""The lengths of paths, and the gradient on them, against counting and closed forms."""

import math

import pytest
import torch
from scipy.stats import binom

from gradlab.stats.path_gradients import effective_depth, effective_lengths, gradient_by_length
from gradlab.theory import path_length_distribution


@pytest.mark.parametrize("modules", [1, 9, 54, 600])
def test_lengths_are_counted(modules: int) -> None:
    counted = [math.comb(modules, k) / 2**modules for k in range(modules + 1)]
    assert path_length_distribution(modules).tolist() == pytest.approx(counted, rel=1e-9, abs=1e-300)


def test_most_paths_of_54_modules_lead_through_19_to_35() -> None:
    # Veit et al. 2016, §5.1: more than 95 % of paths.
    assert path_length_distribution(54)[19:36].sum() > 0.95


@pytest.mark.parametrize(("modules", "factor"), [(9, 0.3), (54, 0.25), (300, 0.9), (300, 1e-3)])
def test_a_gradient_that_decays_geometrically_tilts_the_binomial_distribution(modules: int, factor: float) -> None:
    norms = 1e-200 * factor ** torch.arange(modules + 1, dtype=torch.float64)
    parts = gradient_by_length(path_length_distribution(modules), norms)
    tilted = binom(modules, factor / (1 + factor))
    assert parts.tolist() == pytest.approx(tilted.pmf(range(modules + 1)), rel=1e-8, abs=1e-15)
    assert effective_depth(parts).item() == pytest.approx(tilted.mean())
    shortest, longest = effective_lengths(parts)
    assert (shortest, longest) == (tilted.ppf(0.025), tilted.ppf(0.975))
