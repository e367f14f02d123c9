"""Streams and their gradients against residual perceptrons that are run."""

import math

import pytest
import torch
import torch.nn.functional as F

from gradlab import theory

SEEDS, BATCH = 10, 32


def simulated(seed, blocks, width, norm, *, stream=1.0, branch=1.0, activation=F.relu, weights=(1.0, 1.0)):
    """Variance and gradient's mean square behind each block of two linear layers with weights of variance g/n."""
    generator = torch.Generator().manual_seed(seed)

    def draw(rows, columns, gain):
        return torch.randn(rows, columns, generator=generator) * math.sqrt(gain / columns)

    x = torch.randn(BATCH, width, generator=generator)
    x = F.layer_norm(x, (width,)) if norm == "post" else x
    x.requires_grad_()
    states = []
    for _ in range(blocks):
        read = F.layer_norm(x, (width,)) if norm == "pre" else x
        added = activation(read @ draw(4 * width, width, weights[0]).T) @ draw(width, 4 * width, weights[1]).T
        x = stream * x + branch * added
        x = F.layer_norm(x, (width,)) if norm == "post" else x
        x.retain_grad()
        states.append(x)
    (x * torch.randn(x.shape, generator=generator)).sum().backward()
    return (
        torch.stack([state.detach().square().mean() for state in states]).double(),
        torch.stack([state.grad.square().mean() for state in states]).double(),
    )


def holds(found, expected, tolerance=0.0):
    """Within two standard errors over the seeds, at every depth but one in twenty; and the error is small."""
    mean, error = found.mean(0), found.std(0) / math.sqrt(len(found))
    beyond = (mean - expected).abs() > 2 * error + tolerance * expected
    assert beyond.double().mean() <= 0.05, (mean / expected, error / expected)


@pytest.mark.parametrize("activation", [F.relu, F.gelu])
@pytest.mark.parametrize("blocks", [4, 32])
def test_pre_norm(activation, blocks):
    runs = [simulated(seed, blocks, 256, "pre", activation=activation) for seed in range(SEEDS)]
    v, chi = float(theory.mean_square(activation)), float(theory.mean_square_slope(activation))
    holds(torch.stack([run[0] for run in runs]), theory.pre_norm_variance(blocks, v), 2e-3)
    moments = torch.stack([run[1] / run[1][-1] for run in runs])
    # What finite width does, beyond two standard errors.
    holds(moments[:, :-1], theory.pre_norm_gradient(blocks, v, chi)[:-1], blocks / 256 / 4)


def test_pre_norm_gradient_of_relu_is_the_ratio_of_variances():
    variance = theory.pre_norm_variance(20, 0.5)
    torch.testing.assert_close(theory.pre_norm_gradient(20, 0.5, 0.5), variance[-1] / variance)


@pytest.mark.parametrize("scale", ["sqrt", "completep"])
def test_scaled_branches(scale):
    """depth-μP keeps the variance below q₀ + v at any depth, CompleteP leaves it at q₀ but for v/L."""
    blocks = 32
    factor = {"sqrt": blocks**-0.5, "completep": 1 / blocks}[scale]
    runs = [simulated(seed, blocks, 256, "pre", branch=factor) for seed in range(SEEDS)]
    expected = theory.pre_norm_variance(blocks, 0.5, scale=factor)
    bound = {"sqrt": 1.5, "completep": 1 + 0.5 / blocks}[scale]
    assert float(expected[-1]) == pytest.approx(bound)
    holds(
        torch.stack([run[0] for run in runs]) / torch.stack([run[0][:1] for run in runs]), expected / expected[0], 2e-3
    )


@pytest.mark.parametrize(("activation", "blocks"), [(F.relu, 16), (F.gelu, 16), (torch.tanh, 16)])
def test_post_norm_gradient(activation, blocks):
    """Gradients decay or grow exponentially where χ ≠ v."""
    runs = [simulated(seed, blocks, 256, "post", activation=activation) for seed in range(SEEDS)]
    v, chi = float(theory.mean_square(activation)), float(theory.mean_square_slope(activation))
    moments = torch.stack([run[1] / run[1][-1] for run in runs])
    holds(moments[:, :-1], theory.post_norm_gradient(blocks, v, chi)[:-1], blocks / 256)


def test_deepnorm_gradient_does_not_depend_on_depth():
    blocks = 32
    alpha, beta = theory.deepnorm_constants(blocks)
    assert alpha == 64**0.25
    gains = (0.4 * beta**2, 1.6 * beta**2)
    runs = [simulated(seed, blocks, 256, "post", stream=alpha, weights=gains) for seed in range(SEEDS)]
    v = float(theory.mean_square(F.relu, gains[0])) * gains[1]
    expected = theory.post_norm_gradient(blocks, v, v, alpha)
    moments = torch.stack([run[1] / run[1][-1] for run in runs])
    holds(moments[:, :-1], expected[:-1], 0.02)
    assert float(theory.post_norm_gradient(1000, v, v, alpha)[0]) == pytest.approx(1)


@pytest.mark.parametrize(("factor", "limit"), [(1.0, 1.5**8), (8**-0.5, math.exp(0.5)), (0.0, 1.0)])
def test_without_normalization(factor, limit):
    """1.5^l for ReLU with weights of variance 1/n; below e^v with λ = 1/√L; the identity where λ begins at 0."""
    runs = [simulated(seed, 8, 512, "none", branch=factor) for seed in range(SEEDS)]
    expected = theory.unnormalized_variance(8, 0.5, scale=factor)
    assert expected[-1] <= limit * (1 + 1e-12)
    start = torch.stack([run[0][:1] for run in runs])
    holds(torch.stack([run[0] for run in runs]) / start, expected / expected[0], 0.01)
    moments = torch.stack([run[1] / run[1][-1] for run in runs])
    gradient = (1 + factor**2 * 0.5) ** torch.arange(7, -1, -1, dtype=torch.float64)
    holds(moments[:, :-1], gradient[:-1], 0.01)
