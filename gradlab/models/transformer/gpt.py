"""The decoder of GPT-2 (Radford et al. 2019): tokens in, logits of the next token out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradlab.models.transformer.block import Block
from gradlab.models.transformer.style import Style


class GPT(nn.Module):
    """Embeddings of tokens and positions, L causal blocks, and logits by the embeddings of the tokens.

    Args:
        style: What the blocks are like, and how many there are.
        width: d, of the stream.
        heads: Of each attention.
        vocabulary: V, tokens that there are.
        context: Tokens that a sequence has at most, and has where a measurement asks for data.
        tied: Whether the logits are products with the embeddings; otherwise with weights of their own.
        embedding_scale: What the embeddings of tokens are multiplied by on their way in (Vaswani et al. 2017,
            arXiv:1706.03762, §3.4, have √d; GPT-2 has 1).
    """

    def __init__(
        self,
        style: Style,
        width: int,
        heads: int,
        *,
        vocabulary: int,
        context: int,
        tied: bool = True,
        embedding_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.input_shape = (context,)
        self.vocabulary, self.tied, self.embedding_scale = vocabulary, tied, embedding_scale
        # Without values: drawing them on the meta device loads torch's decompositions, which takes seconds.
        self.tokens = nn.Embedding.from_pretrained(torch.empty(vocabulary, width), freeze=False)
        self.positions = nn.Embedding.from_pretrained(torch.empty(context, width), freeze=False)
        self.blocks = nn.ModuleList(Block(width, heads, True, style, 1e-5) for _ in range(style.depth))
        self.norm = style.normalization(width, 1e-5) if style.ends_normalized else nn.Identity()
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.tie()

    def tie(self) -> None:
        """Make the embeddings the weights of the head, where they are to be."""
        if self.tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T), int64 from 0 to V − 1, to logits (B, T, V)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedding_scale * self.tokens(tokens) + self.positions(places)  # (B, T, d)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]
