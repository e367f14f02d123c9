"""Singular values of a function's Jacobian, without the Jacobian: stochastic trace and Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

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
    """Estimate the squared singular values of a function's Jacobian by stochastic Lanczos quadrature.

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
    """
    forward, transposed, outputs = jacobian_products(function, x)
    generator = torch.Generator().manual_seed(seed)
    steps = min(steps, outputs)
    squares, weights = [], []
    for _ in range(probes):
        signs = torch.randint(0, 2, (outputs,), generator=generator).double() * 2 - 1
        node, weight = _lanczos(lambda u: forward(transposed(u)), signs.to(x.device), steps)
        squares.append(node)
        weights.append(weight)
    nodes, shares = torch.stack(squares), torch.stack(weights)
    means = (nodes * shares).sum(1)
    error = means.std().item() / probes**0.5 if probes > 1 else float("nan")
    return JacobianSpectrum(means.mean().item(), error, nodes, shares)


def _lanczos(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the quadrature of a symmetric operator's spectrum as a vector sees it, (steps,) each."""
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
    off = beside[:-1]
    off = off.where(off > 1e-10 * diagonal.abs().max(), 0)
    values, vectors = torch.linalg.eigh(torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1))
    return values.clamp(min=0), vectors[0].square()
