"""Depth scales against simulated nets and against their closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from gradlab import theory

WIDTH, SEEDS = 1000, 5


def test_relu_is_at_the_edge_of_chaos_with_he_initialization():
    assert theory.variance_fixed_point(F.relu, 2.0) == pytest.approx(1, rel=1e-4)
    assert theory.gradient_factor(F.relu, 2.0) == pytest.approx(1, abs=2e-3)
    assert theory.gradient_factor(F.relu, 1.5, 0.1) == pytest.approx(0.75, abs=2e-3)
    assert theory.variance_fixed_point(F.relu, 3.0) == math.inf


def test_depth_scale_of_relu_in_the_ordered_phase():
    assert theory.depth_scale(F.relu, 1.5, 0.1) == pytest.approx(-1 / math.log(0.75), rel=0.02)


def test_tanh_has_its_edge_at_one_without_biases():
    """Schoenholz et al. 2016: with σ_b = 0 the edge of chaos of tanh is σ_w = 1."""
    assert theory.gradient_factor(torch.tanh, 0.9**2) == pytest.approx(0.81, abs=1e-3)
    assert theory.depth_scale(torch.tanh, 0.9**2) == pytest.approx(-1 / math.log(0.81), rel=0.01)
    assert theory.gradient_factor(torch.tanh, 1.5**2) > 1
    assert theory.correlation_fixed_point(torch.tanh, 1.5**2) < 0.5


def simulated(weight, bias, layers, seed):
    """Variances and correlations of pre-activations at two inputs, and the gradient's mean square, layer by layer."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, WIDTH, generator=generator, dtype=torch.float64)
    z[1] = 0.6 * z[0] + 0.8 * z[1]
    z.requires_grad_()
    states = [z]
    for _ in range(layers):
        # Drawn in float32, which takes a quarter of the time.
        w = torch.randn(WIDTH, WIDTH, generator=generator).double() * math.sqrt(weight / WIDTH)
        b = torch.randn(WIDTH, generator=generator, dtype=torch.float64) * math.sqrt(bias)
        states.append(torch.tanh(states[-1]) @ w.T + b)
    for state in states:
        state.retain_grad()
    (states[-1] * torch.randn(2, WIDTH, generator=generator, dtype=torch.float64)).sum().backward()
    kernels = torch.stack([(state @ state.T / WIDTH).detach() for state in states])
    moments = torch.stack([state.grad.square().mean() for state in states])
    return kernels[:, 0, 0], kernels[:, 0, 1] / (kernels[:, 0, 0] * kernels[:, 1, 1]).sqrt(), moments


def test_tanh_nets_follow_the_recursion():
    """q* and c* in the chaotic phase, and the gradient's growth χ₁, within two standard errors over five seeds."""
    weight, bias, layers = 4.0, 0.3, 24
    runs = [simulated(weight, bias, layers, seed) for seed in range(SEEDS)]
    q = torch.stack([run[0][12:].mean() for run in runs])
    c = torch.stack([run[1][12:].mean() for run in runs])
    rate = torch.stack([(run[2][5] / run[2][15]).log() / 10 for run in runs])
    for found, expected in (
        (q, theory.variance_fixed_point(torch.tanh, weight, bias)),
        (c, theory.correlation_fixed_point(torch.tanh, weight, bias)),
        (rate, math.log(theory.gradient_factor(torch.tanh, weight, bias))),
    ):
        error = float(found.std()) / math.sqrt(SEEDS)
        assert abs(float(found.mean()) - expected) < 2 * error + 2e-3
        assert error < 0.03


def test_correlations_reach_one_at_the_depth_scale():
    """In the ordered phase 1 − c falls by e every ξ layers; at 1,000 neurons the rate is that of the limit to 3 %."""
    weight, bias = 1.0, 0.2
    scale = theory.depth_scale(torch.tanh, weight, bias)
    runs = torch.stack([1 - simulated(weight, bias, 16, seed)[1] for seed in range(SEEDS)]).mean(0)
    found = 8 / float((runs[6] / runs[14]).log())
    assert found == pytest.approx(scale, rel=0.03)
