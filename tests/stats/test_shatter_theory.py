"""Kernels and laws against closed forms, autograd and simulation."""

import math

import pytest
import torch

from gradlab import stats


@pytest.mark.parametrize("degrees", [1, 30, 90, 135, 179])
def test_one_hidden_layer_has_one_minus_theta_over_pi(degrees):
    theta = math.radians(degrees)
    rho = torch.tensor(math.cos(theta), dtype=torch.float64)
    assert stats.kappa0(rho).item() == pytest.approx(1 - theta / math.pi, abs=1e-12)
    assert stats.feedforward_gradient_correlation(rho, 1).item() == pytest.approx(1 - theta / math.pi, abs=1e-12)
    assert stats.kappa1(rho).item() == pytest.approx(
        (math.sin(theta) + (math.pi - theta) * math.cos(theta)) / math.pi, abs=1e-12
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 20])
def test_kernel_derivatives_are_those_of_autograd(depth):
    rho = torch.linspace(-0.95, 0.95, 9, dtype=torch.float64, requires_grad=True)
    k, slope, bend = stats.kernel_derivatives(rho, depth)
    (first,) = torch.autograd.grad(k.sum(), rho, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), rho)
    assert torch.allclose(slope, first, atol=1e-10)
    assert torch.allclose(bend, second, atol=1e-10)


@pytest.mark.parametrize("depth", [1, 3, 10])
def test_many_dimensions_leave_the_product_of_kappa0(depth):
    rho = k = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    product = torch.ones_like(rho)
    for _ in range(depth):
        product, k = product * stats.kappa0(k), stats.kappa1(k)
    assert torch.allclose(stats.feedforward_gradient_correlation(rho, depth), product)


def sampled_correlation(rho, depth, dimension, width=200, networks=150):
    """Inner product of input gradients over their mean square, by autograd on random nets."""
    generator = torch.Generator().manual_seed(depth)
    inputs = torch.zeros(2, dimension, dtype=torch.float64)
    inputs[0, 0], inputs[1, 0], inputs[1, 1] = 1.0, rho, math.sqrt(1 - rho**2)
    both, own = [], []
    for _ in range(networks):
        x = inputs.clone().requires_grad_()
        h = x
        for layer in range(depth):
            fan_in = dimension if layer == 0 else width
            weight = torch.randn(fan_in, width, generator=generator, dtype=torch.float64) * math.sqrt(2 / fan_in)
            h = (h @ weight).relu()
        (g,) = torch.autograd.grad((h @ torch.randn(width, generator=generator, dtype=torch.float64)).sum(), x)
        both.append(g[0] @ g[1])
        own.append(g.square().sum() / 2)
    both, own = torch.stack(both), torch.stack(own)
    ratio = both.mean() / own.mean()
    return ratio.item(), ((both - ratio * own).std() / own.mean() / math.sqrt(networks)).item()


@pytest.mark.parametrize(("depth", "rho"), [(1, 0.0), (2, 0.5), (4, -0.3), (8, 0.3)])
@pytest.mark.parametrize("dimension", [2, 20])
def test_infinite_width_describes_200_neurons(depth, rho, dimension):
    value, error = sampled_correlation(rho, depth, dimension)
    expected = stats.feedforward_gradient_correlation(torch.tensor(rho), depth, dimension).item()
    assert abs(value - expected) <= 4 * error + 3 / 200


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_residual_recursion_is_its_own_derivative(beta):
    rho = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64, requires_grad=True)
    k, slope = stats.residual_correlation(rho, 12, beta)
    (derivative,) = torch.autograd.grad(k.sum(), rho)
    assert torch.allclose(slope, derivative)
    one, _ = stats.residual_correlation(torch.ones(1, dtype=torch.float64), 12, beta)
    assert one.item() == pytest.approx(1.0)


@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize("norm", ["none", "center"])
def test_the_kernel_on_a_line_is_the_mixed_derivative(depth, norm):
    """Against automatic differentiation of the kernel itself, the subtracted means held fixed."""
    x = torch.linspace(-2, 2, 8, dtype=torch.float64)
    got = stats.feedforward_gradient_kernel(x, depth, norm)
    dx, dy = (torch.zeros(8, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def values(moved_x, moved_y):
        """Kernels between moved and unmoved inputs; means are those of unmoved ones."""
        points = {"u": x, "x": x + moved_x, "y": x + moved_y}
        kernel = {a + b: points[a][:, None] * points[b] + 1 for a in points for b in points}
        for layer in range(1, depth + 1):
            if norm == "center" and 1 < layer < depth:
                mean = {a: kernel[a + "u"].mean(1) for a in points}
                back = {b: kernel["u" + b].mean(0) for b in points}
                whole = kernel["uu"].mean()
                kernel = {k: v - mean[k[0]][:, None] - back[k[1]] + whole for k, v in kernel.items()}
            diagonal = {a: kernel[a + a].diagonal() for a in points}
            scale = {k: (diagonal[k[0]][:, None] * diagonal[k[1]]).sqrt() for k in kernel}
            off = ~torch.eye(8, dtype=torch.bool)
            rho = {k: torch.where(off, kernel[k] / scale[k], 0.0) for k in kernel}
            # On the diagonal the points coincide: the kernel is √(ac) there up to second order, not needed below.
            kernel = {k: scale[k] * torch.where(off, stats.kappa1(rho[k]), kernel[k] / scale[k]) for k in kernel}
        return kernel["xy"]

    mixed = torch.zeros(8, 8, dtype=torch.float64)
    for i in range(8):
        for j in range(8):
            if i == j:
                continue
            (first,) = torch.autograd.grad(values(dx, dy)[i, j], dx, create_graph=True)
            (second,) = torch.autograd.grad(first[i], dy)
            mixed[i, j] = second[j]
    off = ~torch.eye(8, dtype=torch.bool)
    assert torch.allclose(got[off], mixed[off], rtol=1e-8, atol=1e-10)
    assert torch.allclose(got.diagonal(), torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize(("acf_of", "points"), [((lambda k: 1 - 3 * k / 256), 256), ((lambda k: 1 - 3 * k / 64), 64)])
@pytest.mark.parametrize("depth", [1, 5, 50])
def test_without_bias_and_norm_the_gradient_is_one_step(acf_of, points, depth):
    x = torch.linspace(-2, 2, points, dtype=torch.float64)
    kernel = stats.feedforward_gradient_kernel(x, depth, bias=False)
    acf = stats.expected_autocorrelation(kernel, 10)
    assert acf.tolist() == pytest.approx([acf_of(k) for k in range(11)], abs=1e-7)


def test_coin_flip_laws():
    depth = torch.tensor([1, 2, 10])
    assert stats.feedforward_law(depth).tolist() == [0.5, 0.25, 2.0**-10]
    assert stats.residual_law(depth).tolist() == pytest.approx([0.75**n for n in (1, 2, 10)])
    assert stats.residual_variance(depth).tolist() == [2.0, 4.0, 1024.0]
    assert stats.normalized_residual_variance(depth, 0.5).tolist() == [1.25, 1.5, 3.5]


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("centred", [False, True])
def test_the_product_law_is_the_product(beta, centred):
    share = 1 - 1 / math.pi if centred else 1
    product, products = 1.0, []
    for block in range(60):
        slope = 1 / (1 + share * beta**2 * block)
        product *= (1 + beta**2 * slope / 2) / (1 + beta**2 * slope)
        products.append(product)
    law = stats.normalized_residual_law(torch.arange(1, 61), beta, centred=centred)
    assert law.tolist() == pytest.approx(products)


def test_the_product_law_in_gamma_functions():
    a, depth = 4.0, 7
    log = math.lgamma(depth + a + 0.5) + math.lgamma(a + 1) - math.lgamma(a + 0.5) - math.lgamma(depth + a + 1)
    assert stats.normalized_residual_law(torch.tensor([depth]), 0.5).item() == pytest.approx(math.exp(log))


@pytest.mark.parametrize(("centred", "exponent"), [(False, -0.5), (True, stats.CENTRED_EXPONENT)])
def test_exponents_of_the_product_law(centred, exponent):
    law = stats.normalized_residual_law(torch.arange(1, 100_001), 1.0, centred=centred).log()
    assert stats.power_exponent(law, 50_000).item() == pytest.approx(exponent, abs=1e-4)
    assert pytest.approx(-0.7335, abs=5e-5) == stats.CENTRED_EXPONENT


def test_the_quoted_asymptote_exceeds_one():
    assert stats.paper_asymptote(torch.tensor([4]), 0.1).item() == pytest.approx(5.0)
    assert stats.normalized_residual_law(torch.tensor([4]), 0.1).item() < 1


@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize("beta", [None, 1.0, 0.5])
def test_counting_paths_through_coin_flips_gives_the_laws(depth, beta):
    """Mean over masks, at a width of 8: the laws hold at any width."""
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


def test_coactivation_against_all_pairs():
    active = (torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0)) < 0.6).float()
    active[:, 0], active[:, 1] = 0, 1
    got = stats.activation_statistics(active.sum(-1), 8)
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    expected = torch.stack([(active[..., i] * active[..., j]).mean(-1) for i, j in pairs]).double().mean(0)
    assert torch.allclose(got.coactivation, expected)
    assert torch.allclose(got.activation, active.double().mean((-1, -2)))
    assert (got.always_on >= 0.2).all()
    assert (got.always_off >= 0.2).all()


def test_gradient_correlation_is_uncentred():
    gradients = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    both, first, second = (1 * 2 - 3) / 2, (1 + 9) / 2, (4 + 1) / 2
    assert stats.gradient_covariance(gradients)[0, 1].item() == both
    assert stats.gradient_correlation(gradients)[0, 1].item() == pytest.approx(both / math.sqrt(first * second))
    huge = gradients.double() * 1e200
    assert torch.allclose(stats.gradient_correlation(huge), stats.gradient_correlation(gradients))


def test_jackknife_of_a_mean_is_its_standard_error():
    samples = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, error = stats.jackknife(lambda s: s.mean(0), samples)
    assert value == samples.mean()
    assert error.item() == pytest.approx(stats.standard_error(samples).item())
    assert stats.jackknife(lambda s: s.mean(0), samples[:1])[1].isnan()


@pytest.mark.parametrize("power", [-0.5, -0.7335])
def test_fits_recover_their_law(power):
    layers = torch.arange(1, 200, dtype=torch.float64)
    assert stats.power_exponent(power * layers.log() + 1, 8).item() == pytest.approx(power)
    assert stats.log_rate(power * layers, 8).item() == pytest.approx(power)
