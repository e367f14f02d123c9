"""Variance of the stream of residual nets with batch normalization at initialization, block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.theory.gradient_growth import taps_inside
from gradlab.theory.rectified_residual import rectified_walk


def preactivation_stream(blocks: int, sizes: Sequence[int], beta: float = 1.0) -> Tensor:
    """Variance of the stream of a pre-activation net over channels, positions and examples.

    Every branch ends in a 3×3 convolution with He's initialization of a rectified standard normal, so it adds β²·q of
    variance, q the share of taps inside the zero-padded map: v_l = v_{l−1} + β²·q (De and Smith 2020,
    arXiv:2002.10444, §3). The stream begins rectified, with mean square 1/2 and mean 1/√(2π). Where a stage begins the
    shortcut (option A) takes the normalized and rectified input as well, and half of the channels are 0: it begins
    again at 1/4 and 1/√(8π). It takes many channels and statistics of the batch; on small maps, where the borders
    count, it is good to some 5 %.

    Args:
        blocks: Blocks a stage.
        sizes: Rows and columns of each stage's map.
        beta: β, weight of the branches.

    Returns:
        (stages·blocks,), float64: behind every block.
    """
    found = []
    for stage, size in enumerate(sizes):
        start = 1 / 4 - 1 / (8 * math.pi) if stage else 1 / 2 - 1 / (2 * math.pi)
        added = beta**2 * float(taps_inside(size).mean())
        found += [start + added * (block + 1) for block in range(blocks)]
    return torch.tensor(found, dtype=torch.float64)


def rectified_stream(blocks: int, stages: int, beta: float = 1.0) -> Tensor:
    """Variance of the stream of the net of He et al. 2015, x_l = relu(x_{l−1} + β·y_l), over all of its values.

    The normalized branch y is standard normal, so the stream is a random walk reflected at 0, which begins as a
    rectified standard normal (see `rectified_residual_gradient_moments`); its mean square grows by about β²/2 a block
    and its variance by β²·(1 − 2/π) once it is long, more slowly than without the ReLU. Where a stage begins half of
    the channels join at 0.

    Args:
        blocks: Blocks a stage.
        stages: Stages.
        beta: β, weight of the branches.

    Returns:
        (stages·blocks,), float64: behind every block.
    """
    places, walks = rectified_walk(blocks, stages, beta)
    found = []
    for units in walks:
        first, second = (sum(share * (p @ places**power) for share, p in units) for power in (1, 2))
        found.append(second - first**2)
    return torch.stack([torch.as_tensor(value) for value in found])
