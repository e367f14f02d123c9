"""The vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929): patches of an image as tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradlab.models.transformer.block import Block
from gradlab.models.transformer.style import Style


class ViT(nn.Module):
    """Patches and a class token with their positions, L blocks, and a classifier of the class token.

    Args:
        style: What the blocks are like, and how many there are.
        width: d, of the stream.
        heads: Of each attention.
        size: Rows and columns of an image.
        patch: Rows and columns of a patch, a divisor of `size`.
        classes: Outputs of the classifier.
    """

    def __init__(
        self, style: Style, width: int, heads: int, *, size: int = 32, patch: int = 4, classes: int = 10
    ) -> None:
        super().__init__()
        self.input_shape = (3, size, size)
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, False, style, 1e-6) for _ in range(style.depth))
        self.norm = style.normalization(width, 1e-6) if style.ends_normalized else nn.Identity()
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, classes)."""
        x = self.patches(x).flatten(2).transpose(1, 2)  # (B, T − 1, d)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions  # (B, T, d)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])  # type: ignore[no-any-return]
