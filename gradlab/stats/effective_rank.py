"""How alike the rows of a matrix are: effective rank, cosines, and how much their norms vary.

The measures of Balduzzi et al. 2017 (arXiv:1702.08591), §1, for matrices whose rows are the gradients of
single examples. All is computed in float64.
"""

from functools import cache

import torch
from torch import Tensor

_NOISE_VALUES = 10**7
"""Gaussian values to draw for the effective rank of noise: a quarter of a second."""


def effective_rank(rows: Tensor) -> Tensor:
    """tr(DᵀD) / ‖D‖₂²: how many directions a matrix has, weighted by their strength.

    It is also called the stable rank. n for n orthogonal rows of one norm, 1 for a matrix of rank one; scale
    and rotation do not change it. The spectral norm is the largest eigenvalue of the smaller Gram matrix.

    Args:
        rows: D, shape (n, p), finite.

    Returns:
        A float64 tensor of shape (), from 1 to min(n, p); NaN where D is 0.
    """
    d = _double(rows)
    gram = d @ d.mT if len(d) <= d.shape[1] else d.mT @ d
    return gram.trace() / torch.linalg.eigvalsh(gram)[-1]  # type: ignore[no-any-return]


def unit_rows(rows: Tensor) -> Tensor:
    """Each row divided by its L2 norm, in float64; a row of zeros has no direction and stays.

    Args:
        rows: Shape (n, p).

    Returns:
        Float64, of the same shape.
    """
    d = _double(rows)
    norms = torch.linalg.vector_norm(d, dim=1, keepdim=True)
    return d / norms.where(norms > 0, 1)  # type: ignore[no-any-return]


@cache
def noise_effective_rank(n: int, p: int, *, unit: bool, draws: int | None = None, seed: int = 0) -> float:
    """Mean effective rank of matrices of iid Gaussian noise, by sampling from a seed.

    By default as many matrices are drawn as make up `_NOISE_VALUES` values, from 4 to 1,000: 32 for n = 100 and
    p = 3,072, where one draw varies by 1 % and so the mean by 0.2 %; larger matrices vary less. For large n and p
    it approaches np / (√n + √p)² (Marchenko and Pastur 1967), which is 1 % too low there.

    Args:
        n: Rows.
        p: Columns.
        unit: Whether the rows of the noise are divided by their norms, too.
        draws: Matrices to average over.
        seed: Seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = draws or min(max(_NOISE_VALUES // (n * p), 4), 1000)
    total = 0.0
    for _ in range(draws):
        noise = torch.randn(n, p, dtype=torch.float64, generator=generator)
        total += effective_rank(unit_rows(noise) if unit else noise).item()
    return total / draws


def relative_effective_rank(rows: Tensor, *, unit: bool = True) -> Tensor:
    """Effective rank over that of Gaussian noise of the same shape: 1 for noise, 1/rank(noise) for equal rows.

    With raw rows a few of large norm rule the value; unit rows weigh all examples alike. The noise is treated
    as the rows are. See `noise_effective_rank` for its error.

    Args:
        rows: Shape (n, p), finite.
        unit: Divide every row by its norm first.

    Returns:
        A float64 tensor of shape ().
    """
    return effective_rank(unit_rows(rows) if unit else rows) / noise_effective_rank(*rows.shape, unit=unit)


def cosines(rows: Tensor) -> Tensor:
    """Cosine of the angle between the rows of each pair.

    Args:
        rows: Shape (n, p); n at least 2.

    Returns:
        Float64 of shape (n (n − 1) / 2,), pairs (i, j) with i < j in the order of a matrix's upper triangle.
    """
    unit = unit_rows(rows)
    i, j = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    return (unit @ unit.mT)[i, j].clamp(-1, 1)


def row_norm_variation(rows: Tensor) -> Tensor:
    """Coefficient of variation of the rows' L2 norms: their std (divisor n) over their mean.

    Args:
        rows: Shape (n, p).

    Returns:
        A float64 tensor of shape ().
    """
    norms = torch.linalg.vector_norm(_double(rows), dim=1)
    return norms.std(correction=0) / norms.mean()  # type: ignore[no-any-return]


def _double(rows: Tensor) -> Tensor:
    """The rows in float64, divided by the largest value, so that no square leaves float64's range."""
    rows = rows.detach()
    d = (rows.cpu() if rows.device.type == "mps" else rows).double()
    largest = d.abs().amax()
    return d / largest.where(largest > 0, 1)
