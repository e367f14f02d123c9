"""Laws of gradient growth against closed forms and simulated networks."""

import math

import pytest
import torch
from torch.nn import functional as F

from gradlab import stats, theory

WIDTH, BATCH, LAYERS, SEEDS = 1000, 200, 30, 5


def normalized(z):
    return F.batch_norm(z, None, None, None, None, True)


def weight(width, generator, dtype=torch.float64):
    return torch.randn(width, width, generator=generator, dtype=dtype) * math.sqrt(2 / width)


def moments_of_chain(seed, step, layers, width=600, batch=BATCH, dtype=torch.float64):
    """Estimate the mean square of the gradient at the responses y that `step(x, generator)` also returns."""
    generator = torch.Generator().manual_seed(seed)
    x = normalized(torch.randn(batch, width, generator=generator, dtype=dtype)).relu().requires_grad_()
    responses = []
    for _ in range(layers):
        y, x = step(x, generator)
        y.retain_grad()
        responses.append(y)
    (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum().backward()
    return torch.stack([y.grad.square().mean() for y in responses])


def test_he_initialization_keeps_the_second_moment():
    assert theory.he_growth(9 * 16, 2 / (9 * 16)) == 1
    assert theory.he_growth(9 * 32, 2 / (9 * 16)) == 2


def test_he_growth_of_a_wide_net():
    moments = moments_of_chain(0, lambda x, g: (y := x @ weight(400, g) / 2, y.relu()), 10, width=400, batch=50)
    growth = (moments[0] / moments[-1]) ** (1 / 9)
    assert growth.item() == pytest.approx(theory.he_growth(400, 0.5 / 400), rel=0.02)


def test_batch_norm_chain_of_a_wide_net_grows_by_pi_over_pi_minus_one():
    """Yang et al. 2019, within 3 standard errors over 5 seeds, at width 1000 with 200 examples."""

    def step(x, generator):
        y = normalized(x @ weight(WIDTH, generator, torch.float32))
        return y, y.relu()

    chains = [moments_of_chain(seed, step, LAYERS, WIDTH, dtype=torch.float32) for seed in range(SEEDS)]
    logs = torch.stack(chains).log()
    rates = (logs[:, 4] - logs[:, -6]) / (LAYERS - 10)
    error = stats.standard_error(rates)
    assert error < 0.002
    assert abs(rates.mean() - math.log(math.pi / (math.pi - 1))) < 3 * error
    assert theory.batch_norm_relu_growth() == pytest.approx(math.pi / (math.pi - 1), abs=1e-12)


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (5, 5), (1, 3), (7, 1)])
def test_tap_coverage_counts_the_taps_inside(size, kernel):
    ones = F.unfold(torch.ones(1, 1, size, size), kernel, padding=kernel // 2)[0].mean(1)
    assert theory.tap_coverage(size, kernel) == pytest.approx((ones.square().sum() / ones.sum()).item(), rel=1e-6)


def test_zero_padding_slows_the_growth():
    """A wide convolutional chain on small maps, against π/(π − ρ)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 128, 6, 6, generator=generator, dtype=torch.float64).relu().requires_grad_()
    responses = []
    for _ in range(8):
        w = torch.randn(128, 128, 3, 3, generator=generator, dtype=torch.float64)
        y = normalized(F.conv2d(x, w, padding=1))
        y.retain_grad()
        responses.append(y)
        x = y.relu()
    (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum().backward()
    moments = [y.grad.square().mean().item() for y in responses]
    growth = (moments[0] / moments[-1]) ** (1 / 7)
    assert growth == pytest.approx(theory.batch_norm_relu_growth(theory.tap_coverage(6)), rel=0.02)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_residual_recursion_against_a_simulation(beta):
    def step(x, generator):
        out = x + beta * normalized(x).relu() @ weight(600, generator)
        return out, out

    def start(seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(BATCH, 600, generator=generator, dtype=torch.float64)
        outputs = []
        for _ in range(12):
            _, x = step(x.requires_grad_(), generator)
            x.retain_grad()
            outputs.append(x)
        (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum().backward()
        return torch.stack([y.grad.square().mean() for y in outputs])

    moments = torch.stack([start(seed) for seed in range(2)]).log().mean(0)
    measured = (moments - moments[-1]).exp()
    torch.testing.assert_close(measured, theory.residual_gradient_moments(12, beta), rtol=0.03, atol=0)


def test_residual_growth_is_a_power_of_depth():
    deep, deeper = (theory.residual_gradient_moments(blocks)[0].log() for blocks in (10_000, 20_000))
    assert ((deeper - deep) / math.log(2)).item() == pytest.approx(math.pi / (math.pi - 1), abs=1e-3)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_rectified_residual_recursion_against_a_simulation(beta):
    def step(x, generator):
        inner = normalized(x @ weight(600, generator)).relu()
        y = normalized(inner @ weight(600, generator))
        return y, (x + beta * y).relu()

    moments = torch.stack([moments_of_chain(seed, step, 10) for seed in range(2)]).log().mean(0)
    expected = theory.rectified_residual_gradient_moments(10, beta=beta)
    torch.testing.assert_close((moments - moments[-1]).exp(), expected, rtol=0.08, atol=0)


def test_rectified_residual_stages_against_wide_convolutions():
    """There are two stages of two blocks, the second with twice the channels at half the size, and padding by ρ."""
    logs = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: B023, E731
        x = normalized(draw(16, 48, 12, 12)).relu().requires_grad_()
        responses = []
        for stride, channels in ((1, 48), (1, 48), (2, 96), (1, 96)):
            inner = F.conv2d(x, draw(channels, x.shape[1], 3, 3), stride=stride, padding=1)
            y = normalized(F.conv2d(normalized(inner).relu(), draw(channels, channels, 3, 3), padding=1))
            y.retain_grad()
            responses.append(y)
            x = (F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, channels - x.shape[1])) + y).relu()
        (x * draw(*x.shape)).sum().backward()
        logs.append(torch.stack([y.grad.square().mean() for y in responses]).log())
    measured = torch.stack(logs).mean(0)
    coverages = [theory.tap_coverage(12), theory.tap_coverage(6)]
    expected = theory.rectified_residual_gradient_moments(2, coverages).log()
    torch.testing.assert_close(measured - measured[-1], expected, rtol=0, atol=0.15)
