"""The std of a batch-normalized response, in closed form."""

import torch
from torch import Tensor


def normalized_response_std(variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Standard deviation over all elements of a batch-normalized response, without any data.

    Batch normalization gives channel c the values γ_c·(x − m_c)/√(v_c + ε) + β_c. Where m_c and v_c are the
    mean and variance of the very values normalized, channel c has mean β_c and variance γ_c²·v_c/(v_c + ε).
    All channels have equally many elements, so by the law of total variance over channels

        std² = mean_c[γ_c²·v_c/(v_c + ε)] + Var_c[β_c]        (Var with divisor C)

    This is exact for batch statistics. With running statistics it holds as far as those describe the
    inputs at hand.

    Args:
        variance: v_c, shape (C,).
        weight: γ_c, shape (C,); None means 1.
        bias: β_c, shape (C,); None means 0.
        eps: ε of the normalization.

    Returns:
        A float64 tensor of shape ().
    """
    v = variance.detach().double()
    gamma = torch.ones_like(v) if weight is None else weight.detach().double()
    within = (gamma.square() * v / (v + eps)).mean()
    between = v.new_zeros(()) if bias is None else bias.detach().double().var(correction=0)
    return (within + between).sqrt()
