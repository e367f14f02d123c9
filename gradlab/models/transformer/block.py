"""Blocks of a transformer (Vaswani et al. 2017, arXiv:1706.03762, §3.1 to §3.3): attention, then a perceptron."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.models.transformer.style import LEARNT, Style


class Attention(nn.Module):
    """Every token takes a weighted mean of values, by softmax(q·k/√d_h), in each head.

    Args:
        width: d, of the stream.
        heads: h, of d_h = d/h values each.
        causal: Whether a token sees itself and those before it alone.
    """

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to the same."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, h, T, d_h) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # (B, h, T, d_h)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))  # type: ignore[no-any-return]

    def multiply_adds(self, output: Tensor) -> int:
        """Multiplications of activations with each other for one sequence: q·k and the means, masked ones too."""
        tokens, width = output.shape[-2:]
        return 2 * tokens * tokens * width


class Perceptron(nn.Module):
    """Two linear layers with an activation between them, four times as wide as the stream.

    Args:
        width: d.
        style: Has the activation.
    """

    def __init__(self, width: int, style: Style) -> None:
        super().__init__()
        self.activation = style.function()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to the same."""
        return self.fc2(self.activation(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a perceptron, each added to the stream; see `Style`.

    Args:
        width: d.
        heads: Of the attention.
        causal: Whether tokens see those before them alone.
        style: What the blocks are like.
        eps: ε of normalizations.
    """

    def __init__(self, width: int, heads: int, causal: bool, style: Style, eps: float) -> None:
        super().__init__()
        self.style = style
        if style.norm != "none":
            self.norm1, self.norm2 = style.normalization(width, eps), style.normalization(width, eps)
        if style.norm == "sandwich":
            self.after1, self.after2 = style.normalization(width, eps), style.normalization(width, eps)
        self.attn = Attention(width, heads, causal)
        self.mlp = Perceptron(width, style)
        if style.scale in LEARNT:
            self.scale1 = nn.Parameter(torch.empty(()))
        if style.scale in LEARNT and style.scale != "rezero":
            self.scale2 = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to the same."""
        norm = self.style.norm
        if norm == "none":
            x = self.join(x, self.attn(x), 1)
            return self.join(x, self.mlp(x), 2)
        if norm == "post":
            x = self.norm1(self.join(x, self.attn(x), 1))
            return self.norm2(self.join(x, self.mlp(x), 2))  # type: ignore[no-any-return]
        if norm == "pre":
            x = self.join(x, self.attn(self.norm1(x)), 1)
            return self.join(x, self.mlp(self.norm2(x)), 2)
        x = self.join(x, self.after1(self.attn(self.norm1(x))), 1)
        return self.join(x, self.after2(self.mlp(self.norm2(x))), 2)

    def join(self, x: Tensor, branch: Tensor, place: int) -> Tensor:
        """α·x + λ·F(x); the branch alone where there are no shortcuts.

        Args:
            x: The stream.
            branch: What its branch gives.
            place: 1 for attention, 2 for the perceptron.
        """
        style = self.style
        if style.scale in LEARNT:
            branch = branch * (self.scale2 if place == 2 and style.scale != "rezero" else self.scale1)
        elif style.branch_factor != 1:
            branch = style.branch_factor * branch
        if not style.shortcut:
            return branch
        return (x if style.stream_factor == 1 else style.stream_factor * x) + branch
