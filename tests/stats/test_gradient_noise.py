"""Noise of gradients against simulations with a known covariance."""

import torch

from gradlab.stats.gradient_noise import noise_of_two_batches


def test_two_batch_sizes_estimate_noise_and_signal_without_bias() -> None:
    """Examples with G = (1, 2, 0) and tr(Σ) = 12: the small batch, part of the large one, has a quarter of that."""
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([2.0, 2.0, 2.0]).double()
    examples = mean + std * torch.randn(20_000, 16, 3, generator=generator, dtype=torch.float64)
    small, large = examples[:, :4].mean(1).norm(dim=-1), examples.mean(1).norm(dim=-1)
    variance, square = noise_of_two_batches(small, large, 4 / 16)
    for found, exact in ((variance, 3.0), (square, 5.0)):
        error = found.std() / len(found) ** 0.5
        assert abs(found.mean() - exact) < 4 * error
        assert error < 0.05
