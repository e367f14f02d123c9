"""Covariances of a sequence's tokens in a transformer of infinite width, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLED_TOKENS = 4096
"""Tokens over all samples of the attention weights: as many samples as make these many."""


def exchangeable_kernel(tokens: int, variance: float = 1.0, correlation: float = 0.0) -> Tensor:
    """The covariance of tokens that are all alike: (T, T), float64, q on the diagonal and ρ·q beside it."""
    kernel = torch.full((tokens, tokens), variance * correlation, dtype=torch.float64)
    return kernel.fill_diagonal_(variance)


def normalized_kernel(kernel: Tensor, eps: float = 0.0) -> Tensor:
    """The covariance of tokens after layer normalization or RMSNorm: correlations, ε aside."""
    scale = (kernel.diagonal() + eps).rsqrt()
    return scale[:, None] * kernel * scale[None, :]


def attention_kernel(
    kernel: Tensor, *, causal: bool, logit_variance: float = 1.0, seed: int = 0, samples: int | None = None
) -> Tensor:
    """E[P·K·Pᵀ]: the covariance of tokens after attention with random weights.

    For queries and keys of independent Gaussian weights the logits q_t·k_s/√d_h become jointly Gaussian in wide heads,
    with covariance K_tt′·K_ss′ (Hron et al. 2020, arXiv:2006.10540, §3.1). P is their softmax, and its second moments
    have no closed form: they are means over drawn logits. With the logits 0 it is the uniform attention of Noci et al.
    2022 (arXiv:2206.03126), see `uniform_attention`.

    Args:
        kernel: (T, T), K, of what attention reads.
        causal: Whether a token sees itself and those before it alone.
        logit_variance: Of q·k/√d_h where K is 1 on its diagonal: the product of both weights' variances with d².
        seed: Of the draws.
        samples: Draws; None takes `SAMPLED_TOKENS`/T, at least 4. The mean over tokens is then good to about 0.3 %.

    Returns:
        (T, T), float64, for values and projection of variance 1/d.
    """
    tokens = len(kernel)
    samples = samples or max(4, SAMPLED_TOKENS // tokens)
    generator = torch.Generator().manual_seed(seed)
    values, vectors = torch.linalg.eigh(kernel.double())
    root = (vectors * values.clamp(min=0).sqrt()).float()
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1) if causal else None
    total = torch.zeros(tokens, tokens, dtype=torch.float64)
    single = kernel.float()
    for _ in range(samples):
        logits = logit_variance**0.5 * (root @ torch.randn(tokens, tokens, generator=generator) @ root.T)
        if hidden is not None:
            logits = logits.masked_fill(hidden, -torch.inf)
        weights = logits.softmax(-1)
        total += (weights @ single @ weights.T).double()
    return total / samples


def uniform_attention(variance: float, correlation: float, tokens: int, branch: float = 1.0) -> tuple[float, float]:
    """Variance and correlation of tokens after x + λ·A(x) with uniform attention over T tokens, all alike.

    Every token then takes the same mean, of variance q·(1 + (T − 1)·ρ)/T, so that without a shortcut (λ → ∞) all are
    equal after one layer, and with shortcuts of λ = 1/√L their correlation stays below 1 (Noci et al. 2022,
    arXiv:2206.03126, §3.2). It holds for T tokens at any depth in the limit of width, without normalization.

    Args:
        variance: q.
        correlation: ρ.
        tokens: T.
        branch: λ.

    Returns:
        q and ρ behind the layer.
    """
    mean = branch**2 * variance * (1 + (tokens - 1) * correlation) / tokens
    total = variance + mean
    return total, (variance * correlation + mean) / total


def pure_attention_spread(spread: Tensor, tokens: int, logit_variance: float = 1.0) -> Tensor:
    """1 − ρ of tokens after one layer of attention and nothing else, from 1 − ρ before it.

    Dong et al. 2021 (arXiv:2103.03404) bound what is left of a sequence besides its mean by the cube of what was there,
    layer by layer: doubly exponential. At initialization the weights' second moments give the constant. With all
    tokens alike, logits of variance σ²(1 − ρ) about their mean, of which two tokens share the part ρ, and many tokens,

        (1 − ρ)′ = (1 − ρ)·(e^{σ²(1−ρ)} − e^{σ²ρ(1−ρ)})/T / (ρ + (1 − ρ)·e^{σ²(1−ρ)}/T)

    which for ρ near 1 is σ²(1 − ρ)³/T, the cube squared: 1 − ρ is the square of what is left.

    Args:
        spread: 1 − ρ, any shape, from 0 to 1.
        tokens: T; the law is off by a share of order 1/T.
        logit_variance: σ², with inputs of variance 1.

    Returns:
        Of spread's shape, float64.
    """
    spread = spread.double()
    rho = 1 - spread
    own = torch.exp(logit_variance * spread) / tokens
    shared = torch.exp(logit_variance * rho * spread) / tokens
    return spread * (own - shared) / (rho + spread * own)
