"""The laws of independent coin flips against their products."""

import math

import pytest
import torch

from gradlab import stats, theory


def test_coin_flip_laws():
    depth = torch.tensor([1, 2, 10])
    assert theory.feedforward_law(depth).tolist() == [0.5, 0.25, 2.0**-10]
    assert theory.residual_law(depth).tolist() == pytest.approx([0.75**n for n in (1, 2, 10)])
    assert theory.residual_variance(depth).tolist() == [2.0, 4.0, 1024.0]
    assert theory.normalized_residual_variance(depth, 0.5).tolist() == [1.25, 1.5, 3.5]


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("centred", [False, True])
def test_the_product_law_is_the_product(beta, centred):
    share = 1 - 1 / math.pi if centred else 1
    product, products = 1.0, []
    for block in range(60):
        slope = 1 / (1 + share * beta**2 * block)
        product *= (1 + beta**2 * slope / 2) / (1 + beta**2 * slope)
        products.append(product)
    law = theory.normalized_residual_law(torch.arange(1, 61), beta, centred=centred)
    assert law.tolist() == pytest.approx(products, rel=2e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_product_law_keeps_its_digits_in_very_deep_nets(beta):
    """Logarithms of gamma functions, which reach 1e6 here, would lose ten digits."""
    start = 1 / beta**2
    log = math.fsum(math.log1p(-0.5 / (block + start + 1)) for block in range(100_000))
    law = theory.normalized_residual_law(torch.tensor([100_000]), beta)
    assert law.item() == pytest.approx(math.exp(log), rel=3e-12)


@pytest.mark.parametrize(("centred", "exponent"), [(False, -0.5), (True, theory.CENTRED_EXPONENT)])
def test_exponents_of_the_product_law(centred, exponent):
    law = theory.normalized_residual_law(torch.arange(1, 100_001), 1.0, centred=centred).log()
    assert stats.power_exponent(law, 50_000).item() == pytest.approx(exponent, abs=1e-4)
    assert pytest.approx(-0.7335, abs=5e-5) == theory.CENTRED_EXPONENT


def test_the_quoted_asymptote_exceeds_one():
    assert theory.paper_asymptote(torch.tensor([4]), 0.1).item() == pytest.approx(5.0)
    assert theory.normalized_residual_law(torch.tensor([4]), 0.1).item() < 1


def masked_gradients(depth, carry, beta, nets, width, seed):
    """Gradients at two inputs with equal weights, whose neurons are active like coin flips: (S, 2)."""
    generator = torch.Generator().manual_seed(seed)
    tangent = torch.randn(nets, width, 1, generator=generator, dtype=torch.float64).expand(-1, -1, 2)
    for _ in range(depth):
        weight = torch.randn(nets, width, width, generator=generator, dtype=torch.float64) * (2 / width) ** 0.5
        active = torch.rand(nets, width, 2, generator=generator) < 0.5
        tangent = carry * tangent + beta * weight @ (tangent * active)
    readout = torch.randn(nets, 1, width, generator=generator, dtype=torch.float64) / width**0.5
    return (readout @ tangent).squeeze(1)


@pytest.mark.parametrize(("carry", "beta"), [(1.0, 1.0), (0.8, 0.6), (0.75**0.5, 0.5)])
def test_highway_law_by_simulation(carry, beta):
    depth, nets = 6, 4000
    gradients = masked_gradients(depth, carry, beta, nets, 12, 0)
    products, error = stats.jackknife(lambda g: (g[..., 0] * g[..., 1]).mean(), gradients.view(40, -1, 2))
    squares, error_of_squares = stats.jackknife(lambda g: g.square().mean(), gradients.view(40, -1, 2))
    second = (carry**2 + beta**2) ** depth
    law = theory.highway_law(torch.tensor(depth), carry, beta).item()
    assert products.item() == pytest.approx(law * second, abs=4 * error.item())
    assert squares.item() == pytest.approx(second, abs=4 * error_of_squares.item())


def test_highway_laws_agree_with_those_of_residual_nets_and_with_their_limits():
    depth = torch.tensor([1, 7, 400])
    assert theory.highway_law(depth, 1.0, 0.3).tolist() == theory.residual_law(depth, 0.3).tolist()
    for centred in (False, True):
        general = theory.normalized_highway_law(depth, 1.0, 0.3, centred=centred, stem=4 / 3)
        closed = theory.normalized_residual_law(depth, 0.3, centred=centred, stem=4 / 3)
        assert general.tolist() == pytest.approx(closed.tolist(), rel=1e-10)
    # With γ² + β² = 1 normalization changes nothing, and β² = 1/L keeps exp(−1/2) at any depth.
    carry, beta = (1 - 1 / 400) ** 0.5, (1 / 400) ** 0.5
    plain = theory.highway_law(depth, carry, beta)
    assert theory.normalized_highway_law(depth, carry, beta).tolist() == pytest.approx(plain.tolist(), rel=1e-12)
    assert plain[-1].item() == pytest.approx(math.exp(-0.5), rel=1e-3)
