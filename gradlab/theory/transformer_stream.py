"""Variance of the residual stream of a transformer at initialization, block by block, in the limit of width."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gradlab.theory.dual_activation import Function, dual_activation
from gradlab.theory.token_kernel import attention_kernel, normalized_kernel

ACTIVATIONS: dict[str, Function] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "linear": lambda z: z,
}
"""Activations of perceptrons by name."""


@dataclass(frozen=True)
class TransformerLaw:
    """What the variance of a transformer's stream depends on: two branches a block, attention and perceptron.

    A branch is x ← α·x + λ·F(x), with normalization before it (`pre`), after the addition (`post`), before and after
    the branch (`sandwich`) or nowhere (`none`). Gains are a weight's variance times its inputs, 1 for a variance 1/n.

    Attributes:
        blocks: L.
        norm: Where blocks normalize.
        causal: Whether a token sees itself and those before it alone.
        activation: Of the perceptron; one of `ACTIVATIONS`.
        shortcut: Whether there are shortcuts.
        stream: α.
        branch: λ; 0 where it is learnt and begins there.
        logits: Gains of queries and keys, multiplied.
        attention: Gains of values and projection, multiplied.
        first: Gain of the perceptron's first layer.
        last: Gain of its last.
        eps: ε of the normalizations.
    """

    blocks: int
    norm: str = "pre"
    causal: bool = True
    activation: str = "gelu"
    shortcut: bool = True
    stream: float = 1.0
    branch: float = 1.0
    logits: float = 1.0
    attention: float = 1.0
    first: float = 1.0
    last: float = 1.0
    eps: float = 0.0

    def kernels(self, start: Tensor) -> list[Tensor]:
        """The covariance of the tokens behind every block: what enters the next.

        Attention takes its values from all tokens that it sees, so its variance depends on how alike they are; that is
        followed here token by token (see `attention_kernel`), and the perceptron by its dual activation. The limit is
        that of wide heads and many channels.

        Args:
            start: (T, T), of what enters the first block.

        Returns:
            L tensors of start's shape, float64.
        """
        found, kernel = [], start.double()
        for block in range(self.blocks):
            kernel = self._join(kernel, partial(self._attention, seed=block))
            kernel = self._join(kernel, self._perceptron)
            found.append(kernel)
        return found

    def _attention(self, kernel: Tensor, *, seed: int) -> Tensor:
        mixed = attention_kernel(kernel, causal=self.causal, logit_variance=self.logits, seed=seed)
        return self.attention * mixed

    def _perceptron(self, kernel: Tensor) -> Tensor:
        return self.last * dual_activation(ACTIVATIONS[self.activation], self.first * kernel)

    def _join(self, kernel: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        before = self.norm in ("pre", "sandwich")
        added = branch(normalized_kernel(kernel, self.eps) if before else kernel)
        if self.norm == "sandwich":
            added = normalized_kernel(added, self.eps)
        joined = self.branch**2 * added + (self.stream**2 * kernel if self.shortcut else 0.0)
        return normalized_kernel(joined, self.eps) if self.norm == "post" else joined


def stream_variance(kernels: list[Tensor]) -> Tensor:
    """Variance of the stream over channels and tokens behind every block: (L,), float64.

    Without the mean over tokens, which is that of few tokens and many channels and vanishes with width.
    """
    return torch.stack([kernel.diagonal().mean() for kernel in kernels])


def token_correlation(kernels: list[Tensor]) -> Tensor:
    """Mean correlation of two different tokens behind every block: (L,), float64; 1 where rank has collapsed."""
    tokens = len(kernels[0])
    sums = torch.stack([normalized_kernel(kernel, 1e-300).sum() for kernel in kernels])
    return (sums - tokens) / (tokens * (tokens - 1)) if tokens > 1 else torch.full_like(sums, math.nan)
