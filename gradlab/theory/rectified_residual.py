"""Gradients in the residual net of He et al. 2015, which applies ReLU after the addition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.theory.gradient_growth import batch_norm_relu_growth

Units = list[tuple[float, Tensor]]
"""Fractions of the units, each with its distribution over the cells."""

CELLS_PER_STEP = 20
"""Cells of the grid per standard deviation of a branch, which gives the moments to about 1e-3."""


def rectified_residual_gradient_moments(blocks: int, coverages: Sequence[float] = (1.0,), beta: float = 1.0) -> Tensor:
    """Compute second moments of the gradient at the branches' outputs at initialization, x_l = relu(x_{l−1} + β·y_l).

    This extends the recursion of variances of De and Smith 2020 (arXiv:2002.10444) to the original ReLU after the
    addition, which they omit. Over the batch, y_l = BN(W₂ relu(BN(W₁ x_{l−1}))) is standard normal, and as the weights
    are independent, x_l is a random walk reflected at 0. Its distribution is computed on a grid, and v_l is its
    variance. Let E_l(x) be the mean square of the gradient at the units whose x_l is x. A reflected unit passes no
    gradient, and the branch returns the same amount to all units:

        A_l(x) = E[1{x + βy > 0}·E_l(x + βy)],    G_l = E[A_l(x_{l−1})]
        E_{l−1}(x) = A_l(x) + G_l·β²·π/(π − 1)/v_{l−1}

    since the branch's two normalizations divide by 2v_{l−1} and 1 − 1/π. G_l is the second moment at the output of
    branch l. The second moment of the gradient of its weights is proportional to it, with the factor 1/2 for W₂ and
    π/(π − 1)/2 for W₁. It grows as a power of depth, nearly L^2.7 for long stages. Zero padding enters by ρ as in
    `batch_norm_relu_growth`: the growth is π/(π − ρ), and v is E[x²] − ρE[x]².

    At the start of a new stage the number of units doubles, the new ones starting at x = 0, and a quarter of the
    positions keep their shortcut (option A); the branch returns half as much to each input.

    Args:
        blocks: The number of blocks per stage.
        coverages: The coverage ρ of each stage. Each stage has twice the channels and half the map size of the
            previous one.
        beta: The weight of the residual branches.

    Returns:
        The moments G relative to that of the last block, float64 of shape (stages·blocks,).
    """
    total = len(coverages) * blocks
    places, stem, step = _walk(total, beta)
    # Each entry is a fraction of the units and their distribution; units that start together remain identical.
    inputs = [[(1.0, stem)], *_distributions(total, blocks, stem, step)[:-1]]
    variances = []
    for block, units in enumerate(inputs):
        coverage = coverages[block // blocks]
        variances.append(sum(share * _variance(places, p, coverage) for share, p in units))
    inputs = [_joined(units, stem) if _begins_stage(block, blocks) else units for block, units in enumerate(inputs)]
    energy = torch.ones_like(places)
    moments: list[Tensor] = []
    for block in reversed(range(total)):
        passed = step[:, 1:] @ energy[1:]
        moments.append(torch.stack([share * (p @ passed) for share, p in inputs[block]]).sum())
        growth = batch_norm_relu_growth(coverages[block // blocks])
        branch = beta**2 * growth / variances[block] * moments[-1]
        energy = passed / 4 + branch / 2 if _begins_stage(block, blocks) else passed + branch
    result = torch.stack(moments[::-1])
    return result / result[-1]


def rectified_walk(blocks: int, stages: int, beta: float = 1.0) -> tuple[Tensor, list[Units]]:
    """Compute the distribution of the stream after every block, on a grid of cells.

    Args:
        blocks: The number of blocks per stage.
        stages: The number of stages; half of a stage's units start at 0.
        beta: The weight of the residual branches.

    Returns:
        The positions of the cells, shape (cells,); and for each block fractions of the units, each with its
        distribution over the cells, shape (cells,).
    """
    places, stem, step = _walk(stages * blocks, beta)
    return places, _distributions(stages * blocks, blocks, stem, step)


def _walk(total: int, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells' positions, the distribution of the first block's input, and the transition matrix."""
    width = min(beta, 1.0) / CELLS_PER_STEP
    cells = int(6 * math.sqrt(1 + total * beta**2) / width)
    places, stem = _grid(cells, width, 1.0)
    return places, stem[0], _grid(cells, width, beta)[1]


def _distributions(total: int, blocks: int, stem: Tensor, step: Tensor) -> list[Units]:
    """Compute the distribution after every block."""
    units: Units = [(1.0, stem)]
    found = []
    for block in range(total):
        if _begins_stage(block, blocks):
            units = _joined(units, stem)
        units = [(share, p @ step) for share, p in units]
        found.append(units)
    return found


def _joined(units: Units, stem: Tensor) -> Units:
    """Add the same number of units at 0."""
    atom = torch.zeros_like(stem)
    atom[0] = 1.0
    return [*((share / 2, p) for share, p in units), (0.5, atom)]


def _begins_stage(block: int, blocks: int) -> bool:
    return block > 0 and block % blocks == 0


def _grid(cells: int, width: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return the cells' positions, the first for 0 itself, and the transition matrix of one reflected step."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * width
    places = torch.cat([edges[:1], edges[1:] - width / 2])
    below = torch.special.ndtr((edges[None, :] - places[:, None]) / scale)
    below[:, -1] = 1.0
    return places, torch.cat([below[:, :1], below.diff(dim=1)], 1)


def _variance(places: Tensor, p: Tensor, coverage: float) -> Tensor:
    return p @ places.square() - coverage * (p @ places).square()
