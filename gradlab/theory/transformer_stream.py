"""Variance of the residual stream of an infinitely wide transformer at initialization, by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
"""The activations of perceptrons by name."""


@dataclass(frozen=True)
class TransformerLaw:
    """The parameters that determine the variance of a transformer's stream, with two branches per block.

    The branches, attention and perceptron, are x ← α·x + λ·F(x), with normalization before the branch (`pre`), after
    the addition (`post`), before and after the branch (`sandwich`) or nowhere (`none`). The gain of a weight is its
    variance times its number of inputs, 1 for a variance 1/n.

    Attributes:
        blocks: The number L of blocks.
        norm: The place of normalization.
        causal: Whether a token attends only to itself and earlier tokens.
        activation: The activation of the perceptron, one of `ACTIVATIONS`.
        shortcut: Whether there are shortcuts.
        stream: The scale α of the stream.
        branch: The scale λ of the branches; 0 if it is learned and starts at 0.
        logits: The product of the gains of queries and keys.
        attention: The product of the gains of values and projection.
        first: The gain of the perceptron's first layer.
        last: The gain of the perceptron's last layer.
        eps: The constant ε of the normalizations.
        head_width: The number of channels of a head; None is the limit of wide heads.
        sequences: The number of sequences whose tokens are followed together.
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
    head_width: int | None = None
    sequences: int = 1

    def kernels(self, start: Tensor) -> list[Tensor]:
        """Compute the covariance of the tokens after every block.

        Attention averages over all tokens that it attends to, so its variance depends on their similarity, which is
        followed token by token (see `attention_kernel`); the perceptron is described by its dual activation. The limit
        is that of many channels.

        Args:
            start: The covariance of the tokens that enter the first block, shape (T, T).

        Returns:
            L float64 tensors of start's shape.
        """
        return [stream for _, _, stream in self._blocks(start)]

    def branch_kernels(self, start: Tensor) -> list[Tensor]:
        """Compute the covariance of what each branch adds, scaled as it is added; see `kernels`.

        Args:
            start: The covariance of the tokens that enter the first block, shape (T, T).

        Returns:
            2·L float64 tensors of start's shape, attention and perceptron of one block after the other.
        """
        return [branch for attention, perceptron, _ in self._blocks(start) for branch in (attention, perceptron)]

    def deviations(self, start: Tensor, width: int) -> Tensor:
        """Compute the standard deviation over random weights of the variance of the stream after every block.

        The sum of squares of x + y, for a branch y = λ·W·h with a random W of the last layer, has the variance
        4·⟨K_x, K_y⟩ + 2·⟨K_y, K_y⟩ over d channels, with the mean over pairs of tokens as inner product, since W gives
        all tokens the same directions. Normalization hands it on from block to block without growth. This is the first
        order in 1/d; weights of inner layers add less.

        Args:
            start: The covariance of the tokens that enter the first block, shape (T, T), of all sequences over which
                the variance is taken.
            width: The number d of channels.

        Returns:
            A float64 tensor of shape (L,), for the variances of `stream_variance`.
        """
        found, total, before = [], torch.zeros((), dtype=torch.float64), start.double()
        for attention, perceptron, _ in self._blocks(start):
            for added in (attention, perceptron):
                own = 0.0 if self.norm == "sandwich" else 2 * added.square().mean()
                crossed = 4 * self.stream**2 * (before * added).mean() if self.shortcut else 0.0
                after = self._join(before, added)
                total = total * self._growth(before, after) + (own + crossed) / width
                before = after
            found.append(torch.zeros_like(total) if self.norm == "post" else total)
        return torch.stack(found).sqrt()

    def _growth(self, before: Tensor, after: Tensor) -> Tensor | float:
        """Return the factor by which a branch multiplies the variance of a deviation."""
        if self.norm == "none":
            return (after.diagonal().mean() / before.diagonal().mean()).square()
        return self.stream**4 if self.shortcut else 0.0

    def _blocks(self, start: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the covariances of both branches and of the stream behind each block."""
        kernel = start.double()
        for block in range(self.blocks):
            attention = self._branch(kernel, partial(self._attention, seed=block))
            kernel = self._join(kernel, attention)
            perceptron = self._branch(kernel, self._perceptron)
            kernel = self._join(kernel, perceptron)
            yield attention, perceptron, kernel

    def _attention(self, kernel: Tensor, *, seed: int) -> Tensor:
        mixed = attention_kernel(
            kernel,
            causal=self.causal,
            sequences=self.sequences,
            logit_variance=self.logits,
            head_width=self.head_width,
            seed=seed,
        )
        return self.attention * mixed

    def _perceptron(self, kernel: Tensor) -> Tensor:
        return self.last * dual_activation(ACTIVATIONS[self.activation], self.first * kernel)

    def _branch(self, kernel: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        added = branch(normalized_kernel(kernel, self.eps) if self.norm in ("pre", "sandwich") else kernel)
        if self.norm == "sandwich":
            added = normalized_kernel(added, self.eps)
        return self.branch**2 * added

    def _join(self, kernel: Tensor, added: Tensor) -> Tensor:
        joined = added + (self.stream**2 * kernel if self.shortcut else 0.0)
        return normalized_kernel(joined, self.eps) if self.norm == "post" else joined


def stream_variance(kernels: list[Tensor]) -> Tensor:
    """Compute the variance of the stream over channels and tokens after every block, float64 of shape (L,).

    The mean over channels and tokens is neglected, since it vanishes with width.
    """
    return torch.stack([kernel.diagonal().mean() for kernel in kernels])


def token_correlation(kernels: list[Tensor]) -> Tensor:
    """Compute the mean correlation of different tokens after every block, float64 (L,); it is 1 after rank collapse."""
    tokens = len(kernels[0])
    sums = torch.stack([normalized_kernel(kernel, 1e-300).sum() for kernel in kernels])
    return (sums - tokens) / (tokens * (tokens - 1)) if tokens > 1 else torch.full_like(sums, math.nan)
