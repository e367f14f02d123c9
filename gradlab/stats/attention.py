"""Entropy and largest logit of attention, for a sample of its rows, and how alike tokens are."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.stats.across_devices import added, joint_device

_CHUNK = 1 << 22
"""Logits that are copied at a time."""


@dataclass(frozen=True)
class AttentionRows:
    """What some rows of attention come to, each a distribution over keys: a value a head.

    Attributes:
        entropy: The sum over rows of the entropy in nats, (H,), float64.
        uniform: The sum over rows of the entropy of equal weights on the keys that the mask leaves, (H,), float64.
        rows: How many rows have a key at all, (H,), float64.
        largest: The largest logit that the mask leaves, (H,), float64; −inf where there is none.
    """

    entropy: Tensor
    uniform: Tensor
    rows: Tensor
    largest: Tensor

    def merge(self, other: AttentionRows) -> AttentionRows:
        """Return what the rows of both come to, on whichever devices they are."""
        device = joint_device(self.largest, other.largest)
        return AttentionRows(
            added(self.entropy, other.entropy),
            added(self.uniform, other.uniform),
            added(self.rows, other.rows),
            torch.maximum(self.largest.to(device, non_blocking=True), other.largest.to(device, non_blocking=True)),
        )


def attention_rows(logits: Tensor) -> AttentionRows:
    """Return entropies and the largest logit of rows of attention.

    Args:
        logits: Shape (B, H, R, S), as the softmax takes them over the last dimension; −inf, or the least number of
            the dtype, where a key is masked.
    """
    examples = max(1, _CHUNK // max(1, logits.shape[1:].numel()))
    if len(logits) > examples:
        return functools.reduce(AttentionRows.merge, map(attention_rows, logits.split(examples)))
    masked = logits <= torch.finfo(logits.dtype).min / 2
    wide = logits.double().masked_fill(masked, -torch.inf)
    visible = (~masked).sum(-1)  # (B, H, R)
    some = visible > 0
    logs = torch.log_softmax(wide, -1).where(some[..., None], -torch.inf)
    entropy = -(logs.exp() * logs.where(logs > -torch.inf, 0)).sum(-1)
    heads = (0, 2)
    largest = wide.amax((0, 2, 3)) if wide.numel() else wide.new_full(wide.shape[1:2], -torch.inf)
    return AttentionRows(
        entropy.sum(heads),
        visible.clamp(min=1).double().log().sum(heads),
        some.sum(heads).double(),
        largest,
    )


def sampled_logits(
    query: Tensor,
    key: Tensor,
    positions: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return the logits of some rows of scaled dot-product attention.

    Args:
        query: (B, H, T, d).
        key: (B, G, S, d), with H a multiple of G.
        positions: Which of the T rows, (R,).
        mask: Broadcast to (B, H, T, S): boolean, True where a key counts, or added to the logits.
        causal: Whether row t sees the keys 0 to t alone.
        scale: What products are multiplied by; 1/√d by default.

    Returns:
        (B, H, R, S), float32 at least.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    rows, keys = query[:, :, positions].to(wide), key.to(wide)
    keys = keys.repeat_interleave(query.shape[1] // key.shape[1], 1)
    logits = rows @ keys.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if causal:
        later = torch.arange(key.shape[2], device=key.device) > positions[:, None]
        logits = logits.masked_fill(later, -torch.inf)
    if mask is None:
        return logits
    mask = mask.expand(*mask.shape[:-2], query.shape[2], key.shape[2])[..., positions, :]
    return logits.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else logits + mask


def sampled_positions(count: int, rows: int | None, device: torch.device) -> Tensor:
    """Return evenly spaced rows, the first and the last among them; all where there are no more than asked for."""
    if rows is None or rows >= count:
        return torch.arange(count, device=device)
    return torch.linspace(0, count - 1, rows, dtype=torch.float64, device=device).round().long()


def token_participation(x: Tensor) -> Tensor:
    """Return the participation ratio (Σλ)²/Σλ² of the eigenvalues λ of each example's matrix x·xᵀ.

    It is the number of directions that tokens take, weighted by their strength: 1 where all are parallel, as rank
    collapse has it (Dong et al. 2021, arXiv:2103.03404), and at most min(T, d).

    Args:
        x: Tokens (B, T, d).

    Returns:
        (B,), float64.
    """
    # Trace and Frobenius norm are those of the smaller of both products.
    x = x.double() if x.shape[1] <= x.shape[2] else x.double().mT
    gram = x @ x.mT
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    ratio: Tensor = trace.square() / gram.square().sum((1, 2))
    return ratio


def token_cosine(x: Tensor) -> Tensor:
    """Return the mean cosine between two different tokens of each example.

    Args:
        x: Tokens (B, T, d), T at least 2.

    Returns:
        (B,), float64.
    """
    units = torch.nn.functional.normalize(x.double(), dim=-1)
    together = units.sum(1).square().sum(-1)
    count = x.shape[1]
    mean: Tensor = (together - units.square().sum((1, 2))) / (count * (count - 1))
    return mean
