"""What `ExampleGradients` keeps of a step, and what it tells of a layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gradlab.stats import (
    gradient_diversity,
    gradient_variance,
    mean_cosine,
    simple_noise_scale,
    true_gradient_square,
)

REST = -1
"""The number that stands for all pieces of parameters that only the total counts."""


@dataclass
class MeasuredBatch:
    """The gradients of one batch's examples as the loss weighs them, reduced.

    Attributes:
        pieces: The numbers of the P pieces of parameters that have a gradient, `REST` for several together.
        norms: Of each example's, shape (P, B).
        sum_norms: Of their sum, shape (P,).
        direction_norms: Of the sum of their directions, shape (P,).
    """

    pieces: list[int]
    norms: Tensor
    sum_norms: Tensor
    direction_norms: Tensor

    @property
    def examples(self) -> int:
        """B."""
        return self.norms.shape[1]

    def places(self, wanted: Sequence[int]) -> list[int]:
        """Where pieces are among those that have a gradient."""
        return [self.pieces.index(piece) for piece in wanted if piece in self.pieces]


@dataclass
class MeasuredStep:
    """One step's batches.

    Attributes:
        step: Its number.
        batches: In the order of their forward passes.
        joined: Norms of all pieces' gradients added up over the batches, shape (pieces,); None for a single batch.
        stale: The norm of what the gradients held before; None where there were none.
        differences: Of each gradient checked, the norms of its difference to the sum over examples and of what
            rounding is to be measured by, shape (2, n).
        checked: The numbers of the parameters checked, and the rounding error that each may have.
    """

    step: int
    batches: list[MeasuredBatch]
    joined: Tensor | None
    stale: Tensor | None
    differences: Tensor
    checked: list[tuple[int, float]]

    def tensors(self) -> list[Tensor]:
        """All that lies on the device."""
        parts = [(batch.norms, batch.sum_norms, batch.direction_norms) for batch in self.batches]
        found = [tensor for part in parts for tensor in part]
        return [*found, *(tensor for tensor in (self.joined, self.stale) if tensor is not None), self.differences]

    def filled(self, tensors: Iterator[Tensor]) -> MeasuredStep:
        """The same step of other tensors, taken in the order of `tensors`."""
        batches = [MeasuredBatch(b.pieces, next(tensors), next(tensors), next(tensors)) for b in self.batches]
        joined = None if self.joined is None else next(tensors)
        stale = None if self.stale is None else next(tensors)
        return replace(self, batches=batches, joined=joined, stale=stale, differences=next(tensors))

    def off(self) -> dict[int, float]:
        """The parameters whose gradient is not the sum of what the examples gave, and by what part of it it is off."""
        off = {}
        # A gradient that is 0 but for rounding, as that of attention's key bias, is as exact as what it is a sum of.
        largest = self.differences[1].max().item() if self.checked else 0.0
        for (number, tolerance), (difference, size) in zip(self.checked, self.differences.T.tolist(), strict=True):
            if difference > tolerance * (size + tolerance**0.5 * largest):
                off[number] = difference / size if size else math.inf
        return off

    def norms(self, wanted: Sequence[int], reduction: str) -> Tensor | None:
        """The norms of the examples' own gradients, shape (N,); None where none of the pieces has a gradient.

        Args:
            wanted: The numbers of the pieces to take together.
            reduction: How the loss joins those of the examples.
        """
        found = [
            torch.linalg.vector_norm(batch.norms[places], dim=0) * self._factor(batch, reduction)
            for batch in self.batches
            if (places := batch.places(wanted))
        ]
        return torch.cat(found) if found else None

    def mean_norm(self, wanted: Sequence[int], reduction: str) -> Tensor:
        """The norm of the mean of the examples' own gradients; NaN where that cannot be told."""
        sizes = [batch.examples for batch in self.batches if batch.places(wanted)]
        if len(self.batches) == 1:
            batch = self.batches[0]
            total: Tensor = torch.linalg.vector_norm(batch.sum_norms[batch.places(wanted)])
        elif self.joined is None or (self.stale is not None and self.stale > 0):
            return torch.tensor(math.nan, dtype=torch.float64)
        else:
            # Of pieces that have no rows of their own there are norms, too.
            total = torch.linalg.vector_norm(self.joined[[piece for piece in wanted if piece != REST]])
        if reduction == "sum":
            return total / sum(sizes)
        return total if len({*sizes}) == 1 else total * math.nan

    def cosine(self, wanted: Sequence[int]) -> Tensor:
        """The mean cosine of two examples of one batch, over all such pairs; NaN for several pieces together."""
        found = [(batch, places) for batch in self.batches if (places := batch.places(wanted))]
        if any(len(places) > 1 for _, places in found):
            return torch.tensor(math.nan, dtype=torch.float64)
        pairs = torch.stack([(batch.norms[p[0]] > 0).sum().double() for batch, p in found])
        pairs = pairs * (pairs - 1)
        cosines = torch.stack([mean_cosine(batch.norms[p[0]], batch.direction_norms[p[0]]) for batch, p in found])
        total = pairs.sum()
        return (cosines.nan_to_num(0.0) * pairs).sum() / total if total > 0 else total * math.nan

    def _factor(self, batch: MeasuredBatch, reduction: str) -> int:
        """By which an example's own gradient is larger than its part in the loss's."""
        return len(self.batches) * batch.examples if reduction == "mean" else 1


def example_columns(step: MeasuredStep, wanted: Sequence[int], reduction: str) -> dict[str, Any]:
    """What the examples of a step tell of some pieces of parameters together.

    Args:
        step: On the CPU.
        wanted: The numbers of the pieces.
        reduction: That of the loss, `mean` or `sum`.
    """
    norms = step.norms(wanted, reduction)
    if norms is None:
        return {"examples": 0}
    mean = step.mean_norm(wanted, reduction)
    variance, square = gradient_variance(norms, mean), true_gradient_square(norms, mean)
    return {
        "examples": len(norms),
        "example_norm": norms.mean().item(),
        "variance": variance.item(),
        "gradient_square": square.item(),
        "diversity": gradient_diversity(norms, mean).item(),
        "mean_cosine": step.cosine(wanted).item(),
        "noise_scale": simple_noise_scale(variance, square).item(),
        "non_finite": not bool(norms.isfinite().all()),
    }


def example_frame(steps: Sequence[MeasuredStep], layers: Mapping[str, Sequence[int]], reduction: str) -> pd.DataFrame:
    """A row an example, layer and step, with columns step, layer, example and norm.

    Args:
        steps: On the CPU.
        layers: The numbers of the pieces of each.
        reduction: That of the loss, `mean` or `sum`.
    """
    frames = []
    for step in steps:
        for name, wanted in layers.items():
            norms = step.norms(wanted, reduction)
            if norms is not None:
                rows = {"step": step.step, "layer": name, "example": range(len(norms)), "norm": norms.numpy()}
                frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)
