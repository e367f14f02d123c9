"""Variance of the stream of residual nets with batch normalization at initialization, by block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.theory.gradient_growth import taps_inside
from gradlab.theory.rectified_residual import rectified_walk


def preactivation_stream(blocks: int, sizes: Sequence[int], beta: float = 1.0) -> Tensor:
    """Compute the variance of the stream of a pre-activation net over channels, positions and examples.

    Every branch ends in a 3×3 convolution with He initialization, applied to a rectified standard normal input. It
    therefore adds the variance β²·q, where q is the fraction of taps inside the zero-padded map: v_l = v_{l−1} + β²·q
    (De and Smith 2020, arXiv:2002.10444, §3). The stream starts rectified, with mean square 1/2 and mean 1/√(2π). At
    the start of a stage, the shortcut (option A) also receives the normalized and rectified input, and half of the
    channels are 0, so that it restarts at 1/4 and 1/√(8π). This assumes many channels and batch statistics; on small
    maps, where borders matter, the error is about 5 %.

    Args:
        blocks: The number of blocks per stage.
        sizes: The number of rows, or columns, of each stage's map.
        beta: The weight β of the branches.

    Returns:
        The variances after every block, float64 of shape (stages·blocks,).
    """
    found = []
    for stage, size in enumerate(sizes):
        start = 1 / 4 - 1 / (8 * math.pi) if stage else 1 / 2 - 1 / (2 * math.pi)
        added = beta**2 * float(taps_inside(size).mean())
        found += [start + added * (block + 1) for block in range(blocks)]
    return torch.tensor(found, dtype=torch.float64)


def rectified_stream(blocks: int, stages: int, beta: float = 1.0) -> Tensor:
    """Compute the variance of the stream of the net of He et al. 2015, x_l = relu(x_{l−1} + β·y_l), over all values.

    The normalized branch y is standard normal, so the stream is a random walk reflected at 0 that starts as a rectified
    standard normal (see `rectified_residual_gradient_moments`). Its mean square grows by about β²/2 per block, and
    after many blocks its variance grows by β²·(1 − 2/π) per block, more slowly than without the ReLU. At the start of a
    stage, half of the channels start at 0.

    Args:
        blocks: The number of blocks per stage.
        stages: The number of stages.
        beta: The weight β of the branches.

    Returns:
        The variances after every block, float64 of shape (stages·blocks,).
    """
    places, walks = rectified_walk(blocks, stages, beta)
    found = []
    for units in walks:
        first, second = (sum(share * (p @ places**power) for share, p in units) for power in (1, 2))
        found.append(second - first**2)
    return torch.stack([torch.as_tensor(value) for value in found])
