"""The std of a batch-normalized response, in closed form."""

import torch
from torch import Tensor


def normalized_response_std(variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Predict the standard deviation over all elements of a batch-normalized response, without any data.

    Batch normalization gives channel c the values γ_c·(x − m_c)/√(v_c + ε) + β_c. If m_c and v_c are the mean and
    variance of the normalized values themselves, channel c has mean β_c and variance γ_c²·v_c/(v_c + ε). All channels
    have the same number of elements, so by the law of total variance over channels

        std² = mean_c[γ_c²·v_c/(v_c + ε)] + Var_c[β_c]        (Var with divisor C)

    This is exact for batch statistics. With running statistics it is as accurate as they are for the given inputs.

    Args:
        variance: The variances v_c, shape (C,).
        weight: The scales γ_c, shape (C,); None means 1.
        bias: The shifts β_c, shape (C,); None means 0.
        eps: The constant ε of the normalization.

    Returns:
        A float64 tensor of shape ().
    """
    v = variance.detach().double()
    gamma = torch.ones_like(v) if weight is None else weight.detach().double()
    within = (gamma.square() * v / (v + eps)).mean()
    between = v.new_zeros(()) if bias is None else bias.detach().double().var(correction=0)
    return (within + between).sqrt()
