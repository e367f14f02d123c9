"""The measurements of a step by `ExampleGradients`, and the columns computed from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.stats import (
    gradient_diversity,
    gradient_variance,
    mean_cosine,
    simple_noise_scale,
    true_gradient_square,
)

REST = -1
"""The number that represents all pieces of parameters that count only in the total."""


@dataclass
class MeasuredBatch:
    """The reduced gradients of one batch's examples, as weighted in the loss.

    Attributes:
        pieces: The numbers of the P pieces of parameters that have a gradient, with `REST` for several together.
        norms: The norms of the gradients of each example, shape (P, B).
        sum_norms: The norms of the sums over examples, shape (P,).
        direction_norms: The norms of the sums of directions, shape (P,).
        cosine: The mean cosine of the gradients of two examples over all pieces together, shape ().
    """

    pieces: list[int]
    norms: Tensor
    sum_norms: Tensor
    direction_norms: Tensor
    cosine: Tensor

    @property
    def examples(self) -> int:
        """The number B of examples."""
        return self.norms.shape[1]

    def places(self, wanted: Sequence[int]) -> list[int]:
        """Return the indices of those pieces that have a gradient."""
        return [self.pieces.index(piece) for piece in wanted if piece in self.pieces]


@dataclass
class MeasuredStep:
    """The batches of one step.

    Attributes:
        step: The number of the step.
        batches: The batches in the order of their forward passes.
        joined: The norms of all pieces' gradients summed over batches, shape (pieces,); None for a single batch.
        stale: The norm of the gradients that existed before the step; None if there were none.
        differences: For each checked gradient, the norm of its difference from the sum over examples, and the size
            relative to which rounding errors are judged, shape (2, n).
        checked: The numbers of the checked parameters, and the relative rounding error allowed for each.
        undone: Which gradients were changed within the step, after which it began anew, and how; `stale` then is the
            norm of what was left of them.
    """

    step: int
    batches: list[MeasuredBatch]
    joined: Tensor | None
    stale: Tensor | None
    differences: Tensor
    checked: list[tuple[int, float]]
    undone: str = ""

    def tensors(self) -> list[Tensor]:
        """Return all tensors on the device."""
        parts = [(batch.norms, batch.sum_norms, batch.direction_norms, batch.cosine) for batch in self.batches]
        found = [tensor for part in parts for tensor in part]
        return [*found, *(tensor for tensor in (self.joined, self.stale) if tensor is not None), self.differences]

    def filled(self, tensors: Iterator[Tensor]) -> MeasuredStep:
        """Return the same step with other tensors, in the order of `tensors`."""
        batches = [
            MeasuredBatch(b.pieces, next(tensors), next(tensors), next(tensors), next(tensors)) for b in self.batches
        ]
        joined = None if self.joined is None else next(tensors)
        stale = None if self.stale is None else next(tensors)
        return replace(self, batches=batches, joined=joined, stale=stale, differences=next(tensors))

    def refuse_half_undone(self) -> None:
        """Raise an error if gradients were changed within the step but not cleared.

        Raises:
            GradlabError: If so. The message names the parameters.
        """
        if self.undone and self.stale is not None and self.stale > 0:
            raise GradlabError(
                f"{self.undone} of step {self.step}, and not all gradients were cleared: call probe.step() before "
                "gradients are changed, or clear all of them"
            )

    def off(self) -> dict[int, float]:
        """Return the relative error of each parameter's gradient that is not the sum over examples, by its number."""
        off = {}
        # A gradient that is 0 up to rounding, like that of attention's key bias, has the error of its terms.
        largest = self.differences[1].max().item() if self.checked else 0.0
        for (number, tolerance), (difference, size) in zip(self.checked, self.differences.T.tolist(), strict=True):
            if difference > tolerance * (size + tolerance**0.5 * largest):
                off[number] = difference / size if size else math.inf
        return off

    def norms(self, wanted: Sequence[int], reduction: str) -> Tensor | None:
        """Compute the norms of the examples' own gradients, shape (N,), or None if no piece has a gradient.

        Args:
            wanted: The numbers of the pieces that are measured together.
            reduction: The reduction of the loss, `mean` or `sum`.
        """
        found = [
            torch.linalg.vector_norm(batch.norms[places], dim=0) * self._factor(batch, reduction)
            for batch in self.batches
            if (places := batch.places(wanted))
        ]
        return torch.cat(found) if found else None

    def mean_norm(self, wanted: Sequence[int], reduction: str) -> Tensor:
        """Compute the norm of the mean of the examples' own gradients, NaN if it is not known."""
        sizes = [batch.examples for batch in self.batches if batch.places(wanted)]
        if len(self.batches) == 1:
            batch = self.batches[0]
            total: Tensor = torch.linalg.vector_norm(batch.sum_norms[batch.places(wanted)])
        elif self.joined is None or (self.stale is not None and self.stale > 0):
            return torch.tensor(math.nan, dtype=torch.float64)
        else:
            # Pieces without rows of their own have norms as well.
            total = torch.linalg.vector_norm(self.joined[[piece for piece in wanted if piece != REST]])
        if reduction == "sum":
            return total / sum(sizes)
        return total if len({*sizes}) == 1 else total * math.nan

    def cosine(self, wanted: Sequence[int]) -> Tensor:
        """Compute the mean cosine over all pairs of examples of one batch, for one piece or for all together.

        It is NaN for a row of several pieces.
        """
        found = [_pairs_and_cosine(batch, places) for batch in self.batches if (places := batch.places(wanted))]
        pairs, cosines = (torch.stack(values) for values in zip(*found, strict=True))
        total = pairs.sum()
        return (cosines.where(pairs > 0, 0.0) * pairs).sum() / total if total > 0 else total * math.nan

    def _factor(self, batch: MeasuredBatch, reduction: str) -> int:
        """Return the ratio of an example's own gradient to its contribution to the gradient of the loss."""
        return len(self.batches) * batch.examples if reduction == "mean" else 1


def _pairs_and_cosine(batch: MeasuredBatch, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the number of ordered pairs of examples with a gradient, and the mean of their cosines."""
    norms = torch.linalg.vector_norm(batch.norms[places], dim=0)
    n = (norms > 0).sum().double()
    if len(places) == 1:
        cosine = mean_cosine(norms, batch.direction_norms[places[0]])
    else:
        cosine = batch.cosine.double() if len(places) == len(batch.pieces) else n * math.nan
    return n * (n - 1), cosine


def example_columns(step: MeasuredStep, wanted: Sequence[int], reduction: str) -> dict[str, Any]:
    """Compute the columns of the result for some pieces of parameters together.

    Args:
        step: The step, on the CPU.
        wanted: The numbers of the pieces.
        reduction: The reduction of the loss, `mean` or `sum`.
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
    """Make a frame with one row per example, layer and step, and columns step, layer, example and norm.

    Args:
        steps: The steps, on the CPU.
        layers: The numbers of the pieces of each layer.
        reduction: The reduction of the loss, `mean` or `sum`.
    """
    frames = []
    for step in steps:
        for name, wanted in layers.items():
            norms = step.norms(wanted, reduction)
            if norms is not None:
                rows = {"step": step.step, "layer": name, "example": range(len(norms)), "norm": norms.numpy()}
                frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)
