"""How far the mean squared singular value of a ReLU net's Jacobian scatters over random weights at finite width."""

from __future__ import annotations

import math


def relu_jacobian_deviation(width: int, depth: int) -> float:
    """Compute the standard deviation of tr(J·Jᵀ)/n of J = D_L W_L ⋯ D_1 W_1 over Gaussian weights of variance 2/n.

    This is exact for any input and any width. Given the layers before it, a ReLU is on or off with equal chance,
    independently of quadratic forms in its weights, which are even in them. With T = tr A and S = tr A² for A = J·Jᵀ, a
    layer therefore turns the means of T² and S into

        (1 + 1/n)·T² + (4/n)·S   and   (2/n)·T² + (1 + 3/n)·S,

    while the mean of T stays n. To first order, the variance of T/n is L/n + 4·L²/n². Where L is not small against n,
    the distribution is skewed, and most nets are below the mean of 1: along any one direction, the logarithm of ‖J·u‖²
    has a variance of about 5·L/n and a mean of minus half of it (Hanin and Nica 2018, arXiv:1812.05994).

    Args:
        width: The number n of neurons of every layer and of inputs.
        depth: The number L of layers.
    """
    square, second = float(width) ** 2, float(width)
    for _ in range(depth):
        square, second = (
            (1 + 1 / width) * square + 4 / width * second,
            2 / width * square + (1 + 3 / width) * second,
        )
    return math.sqrt(square / width**2 - 1)
