"""Covariances of a sequence's tokens in an infinitely wide transformer, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLED_TOKENS = 4096
"""Total number of tokens over all samples of the attention weights, which determines the number of samples."""


def exchangeable_kernel(tokens: int, variance: float = 1.0, correlation: float = 0.0) -> Tensor:
    """Return the covariance of exchangeable tokens, float64 (T, T), with q on the diagonal and ρ·q elsewhere."""
    kernel = torch.full((tokens, tokens), variance * correlation, dtype=torch.float64)
    return kernel.fill_diagonal_(variance)


def normalized_kernel(kernel: Tensor, eps: float = 0.0) -> Tensor:
    """Compute the covariance of tokens after layer normalization or RMSNorm, which are correlations up to ε."""
    scale = (kernel.diagonal() + eps).rsqrt()
    return scale[:, None] * kernel * scale[None, :]


def attention_kernel(
    kernel: Tensor,
    *,
    causal: bool,
    sequences: int = 1,
    logit_variance: float = 1.0,
    head_width: int | None = None,
    seed: int = 0,
    samples: int | None = None,
) -> Tensor:
    """Compute E[P·K·Pᵀ], the covariance of tokens after attention with random weights.

    For Gaussian weights and inputs of many channels, the queries and keys of a head are Gaussian and independent, each
    of its d_h channels with covariance K. The logits q_t·k_s/√d_h are therefore Gaussian given the queries, and jointly
    Gaussian in wide heads, with covariance K_tt′·K_ss′ (Hron et al. 2020, arXiv:2006.10540, §3.1). The second moments
    of their softmax P have no closed form, and are estimated from sampled logits. With logits 0 this is the uniform
    attention of Noci et al. 2022 (arXiv:2206.03126), see `uniform_attention`.

    Args:
        kernel: The covariance K of the input of attention, shape (T, T).
        causal: Whether a token attends only to itself and earlier tokens.
        sequences: The number of sequences whose tokens K describes, one after the other; each attends to itself.
        logit_variance: The variance of q·k/√d_h if K is 1 on its diagonal: the product of both weights' variances and
            d².
        head_width: The number d_h of channels of a head, whose logits have heavier tails the fewer they are; None is
            the limit of wide heads.
        seed: The seed of the samples.
        samples: The number of samples; None means `SAMPLED_TOKENS`/T, at least 4, for an error of about 0.3 % in the
            mean over tokens.

    Returns:
        A float64 matrix of shape (T, T), for values and projection with weights of variance 1/d.
    """
    tokens = len(kernel)
    samples = samples or max(4, SAMPLED_TOKENS // tokens)
    generator = torch.Generator().manual_seed(seed)
    values, vectors = torch.linalg.eigh(kernel.double())
    root = (vectors * values.clamp(min=0).sqrt()).float()
    length = tokens // sequences
    single = torch.ones(length, length, dtype=torch.bool)
    seen = torch.block_diag(*[single.tril() if causal else single] * sequences)
    total = torch.zeros(tokens, tokens, dtype=torch.float64)
    covariance = kernel.float()
    for _ in range(samples):
        queries = root
        if head_width is not None:
            queries = root @ torch.randn(tokens, head_width, generator=generator) / head_width**0.5
        noise = torch.randn(queries.shape[1], tokens, generator=generator)
        logits = logit_variance**0.5 * (queries @ noise @ root.T)
        weights = logits.masked_fill(~seen, -torch.inf).softmax(-1)
        total += (weights @ covariance @ weights.T).double()
    return total / samples


def uniform_attention(variance: float, correlation: float, tokens: int, branch: float = 1.0) -> tuple[float, float]:
    """Compute variance and correlation of exchangeable tokens after x + λ·A(x) with uniform attention over T tokens.

    Every token receives the same mean, of variance q·(1 + (T − 1)·ρ)/T. Without a shortcut (λ → ∞) all tokens are
    therefore equal after one layer, and with λ = 1/√L their correlation stays below 1 (Noci et al. 2022,
    arXiv:2206.03126, §3.2). This holds at any depth in the limit of infinite width, without normalization.

    Args:
        variance: The variance q of the tokens.
        correlation: The correlation ρ of two tokens.
        tokens: The number T of tokens.
        branch: The scale λ of the branch.

    Returns:
        The variance q and the correlation ρ after the layer.
    """
    mean = branch**2 * variance * (1 + (tokens - 1) * correlation) / tokens
    total = variance + mean
    return total, (variance * correlation + mean) / total


def pure_attention_spread(spread: Tensor, tokens: int, logit_variance: float = 1.0) -> Tensor:
    """Compute 1 − ρ of tokens after one layer of pure attention from 1 − ρ before it.

    Dong et al. 2021 (arXiv:2103.03404) bound the residual of a sequence about its mean by the cube of the residual
    before each layer, which is doubly exponential decay. At initialization, the second moments of the weights determine
    the constant. For many exchangeable tokens, with logits of variance σ²(1 − ρ) about their mean, of which two tokens
    share the fraction ρ,

        (1 − ρ)′ = (1 − ρ)·(e^{σ²(1−ρ)} − e^{σ²ρ(1−ρ)})/T / (ρ + (1 − ρ)·e^{σ²(1−ρ)}/T)

    For ρ near 1 this is σ²(1 − ρ)³/T, the square of their bound, since 1 − ρ is the squared residual.

    Args:
        spread: The values of 1 − ρ, from 0 to 1, of any shape.
        tokens: The number T of tokens; the law has a relative error of order 1/T.
        logit_variance: The variance σ² of the logits for inputs of variance 1.

    Returns:
        A float64 tensor of spread's shape.
    """
    spread = spread.double()
    rho = 1 - spread
    own = torch.exp(logit_variance * spread) / tokens
    shared = torch.exp(logit_variance * rho * spread) / tokens
    return spread * (own - shared) / (rho + spread * own)
