"""Singular values of a function's Jacobian, without the Jacobian: stochastic trace and Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradlab.transfer import uploaded

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class JacobianSpectrum:
    """The distribution of the squared singular values of a Jacobian J, over its rows.

    Attributes:
        mean_square: tr(J·Jᵀ) over the number of outputs, as the mean over probes.
        standard_error: Of that mean over probes; NaN for one.
        squares: Squared singular values, the nodes of the quadrature, (probes, steps), float64.
        weights: The share of each, which sum to 1 for every probe.
    """

    mean_square: float
    standard_error: float
    squares: Tensor
    weights: Tensor


def jacobian_products(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Product, Product, int]:
    """Return what multiplies by the Jacobian of a function and by its transpose, without forming it.

    Products with J are derivatives of Jᵀ·u in u, so that functions without a forward mode serve as well. Attention runs
    by its plain formula, since fused kernels have no second derivative.

    Args:
        function: From a tensor of x's shape to a tensor of any shape.
        x: Where the derivative is taken.

    Returns:
        v ↦ J·v, from x's elements to the outputs; u ↦ Jᵀ·u, back; and the number of outputs.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        y = function(x).reshape(-1)
        free = torch.zeros_like(y, requires_grad=True)
        (back,) = torch.autograd.grad(y, x, free, create_graph=True)
    back = back.reshape(-1)

    def transposed(u: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(y, x, u.to(y.dtype), retain_graph=True)
        return found.reshape(-1).double()

    def forward(v: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(back, free, v.to(back.dtype), retain_graph=True)
        return found.reshape(-1).double()

    return forward, transposed, y.numel()


def jacobian_spectrum_of(
    function: Callable[[Tensor], Tensor], x: Tensor, *, probes: int = 4, steps: int = 40, seed: int = 0
) -> JacobianSpectrum:
    """Estimate the squared singular values of a function's Jacobian; see `lanczos_coefficients` and `spectrum_of`.

    Args:
        function: From a tensor of x's shape to a tensor.
        x: Where the Jacobian is taken.
        probes: How many random vectors.
        steps: How many Lanczos steps for each.
        seed: Of the random vectors.
    """
    return spectrum_of(lanczos_coefficients(function, x, probes=probes, steps=steps, seed=seed)[0].cpu())


def lanczos_coefficients(
    function: Callable[[Tensor], Tensor], x: Tensor, *, probes: int, steps: int, seed: int
) -> tuple[Tensor, int]:
    """Run the Lanczos steps of a stochastic quadrature on J·Jᵀ, without waiting for the device.

    Each probe is a random vector of signs u over the outputs. ‖Jᵀu‖² has the trace of J·Jᵀ for its mean (Hutchinson
    1990), and Lanczos steps on J·Jᵀ from u give a quadrature of the distribution of its eigenvalues (Golub and Welsch
    1969; Ubaru, Chen and Saad 2017, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature"). It is exact where
    the steps are as many as the different eigenvalues; with fewer, its first 2·steps − 1 moments are. A step costs one
    product with J and one with Jᵀ.

    Args:
        function: From a tensor of x's shape to a tensor.
        x: Where the Jacobian is taken.
        probes: How many random vectors.
        steps: How many Lanczos steps for each.
        seed: Of the random vectors.

    Returns:
        The diagonals of the tridiagonal matrices and what is beside them, float64 (2, probes, steps) on x's device,
        with as many steps as there are outputs at most; and the number of outputs.
    """
    forward, transposed, outputs = jacobian_products(function, x)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(probes):
        signs = torch.randint(0, 2, (outputs,), generator=generator).double() * 2 - 1
        start = uploaded(signs, x.device)
        found.append(_lanczos(lambda u: forward(transposed(u)), start, min(steps, outputs)))
    return torch.stack(found, 1), outputs


def spectrum_of(coefficients: Tensor) -> JacobianSpectrum:
    """Return nodes and weights of the quadrature from the coefficients of `lanczos_coefficients`, on the CPU."""
    diagonal, beside = coefficients
    off = beside[:, :-1]
    off = off.where(off > 1e-10 * diagonal.abs().amax(1, keepdim=True), 0)
    tridiagonal = diagonal.diag_embed() + off.diag_embed(1) + off.diag_embed(-1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    nodes, shares = values.clamp(min=0), vectors[:, 0].square()
    means, probes = (nodes * shares).sum(1), len(nodes)
    error = means.std().item() / probes**0.5 if probes > 1 else float("nan")
    return JacobianSpectrum(means.mean().item(), error, nodes, shares)


def _lanczos(product: Product, start: Tensor, steps: int) -> Tensor:
    """The coefficients of a symmetric operator as a vector sees it, (2, steps): diagonal, and beside it."""
    basis = torch.zeros(steps, len(start), dtype=torch.float64, device=start.device)
    diagonal = torch.zeros(steps, dtype=torch.float64, device=start.device)
    beside = torch.zeros(steps, dtype=torch.float64, device=start.device)
    vector = start / start.norm()
    for step in range(steps):
        basis[step] = vector
        image = product(vector)
        diagonal[step] = image @ vector
        # Twice, so that rounding does not bring back what was found before.
        for _ in range(2):
            image = image - basis[: step + 1].mT @ (basis[: step + 1] @ image)
        beside[step] = image.norm()
        # Where the vectors have all been found, the rest is a direction of its own with no weight.
        vector = image / beside[step].clamp(min=torch.finfo(torch.float64).tiny)
    return torch.stack((diagonal, beside))
