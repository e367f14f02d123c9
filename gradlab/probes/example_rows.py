"""What `ExampleGradients` keeps of a step, and the rows that become of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gradlab.results.gradients import TOTAL
from gradlab.stats import (
    gradient_diversity,
    gradient_variance,
    mean_cosine,
    simple_noise_scale,
    true_gradient_square,
)

REST = -1
"""The number that stands for all parameters that only the total counts."""


@dataclass
class Layer:
    """A layer's kind, and the numbers of the parameters that its gradient is of."""

    kind: str
    parameters: list[int]

    @property
    def measured(self) -> list[int]:
        """The numbers under which they are measured."""
        return [*self.parameters, REST] if self.kind == TOTAL else self.parameters


@dataclass
class MeasuredBatch:
    """The gradients of one batch's examples as the loss weighs them, reduced.

    Attributes:
        parameters: The numbers of the P parameters that have a gradient, `REST` for several together.
        norms: Of each example's, shape (P, B).
        sum_norms: Of their sum, shape (P,).
        direction_norms: Of the sum of their directions, shape (P,).
    """

    parameters: list[int]
    norms: Tensor
    sum_norms: Tensor
    direction_norms: Tensor

    def of(self, wanted: Sequence[int], reduction: str) -> tuple[Tensor, Tensor, Tensor] | None:
        """Norms of the examples' own gradients (B,), of their mean, and of the sum of their directions.

        Args:
            wanted: The numbers of the parameters to take together.
            reduction: That of the loss.

        Returns:
            None where none of the parameters has a gradient. The sum of directions of several parameters is not
            known, and NaN.
        """
        rows = [self.parameters.index(number) for number in wanted if number in self.parameters]
        if not rows:
            return None
        examples = self.norms.shape[1]
        norms, total = torch.linalg.vector_norm(self.norms[rows], dim=0), torch.linalg.vector_norm(self.sum_norms[rows])
        direction = self.direction_norms[rows[0]] if len(rows) == 1 else total.new_tensor(math.nan)
        if reduction == "mean":
            return norms * examples, total, direction
        return norms, total / examples, direction


@dataclass
class MeasuredStep:
    """One step's batches, the norms of all parameters, and which of them are frozen."""

    step: int
    batches: list[MeasuredBatch]
    weights: Tensor
    frozen: list[bool]

    def tensors(self) -> list[Tensor]:
        """All that lies on the device."""
        parts = [(batch.norms, batch.sum_norms, batch.direction_norms) for batch in self.batches]
        return [self.weights, *(tensor for part in parts for tensor in part)]

    def filled(self, tensors: Iterator[Tensor]) -> MeasuredStep:
        """The same step of other tensors, taken in the order of `tensors`."""
        weights = next(tensors)
        batches = [MeasuredBatch(b.parameters, next(tensors), next(tensors), next(tensors)) for b in self.batches]
        return replace(self, batches=batches, weights=weights)


def step_rows(
    step: MeasuredStep, layers: Mapping[str, Layer], numels: Sequence[int], reduction: str
) -> list[dict[str, Any]]:
    """The rows of one step: one a layer, and the total.

    Args:
        step: On the CPU.
        layers: In order of execution.
        numels: Of all parameters.
        reduction: That of the loss, `mean` or `sum`.
    """
    rows = [
        {"index": index, **_row(step, name, layer, numels, reduction)}
        for index, (name, layer) in enumerate(layers.items(), 1)
    ]
    trainable = [number for number, frozen in enumerate(step.frozen) if not frozen]
    return [*rows, {"index": None, **_row(step, TOTAL, Layer(TOTAL, trainable), numels, reduction)}]


def _row(step: MeasuredStep, name: str, layer: Layer, numels: Sequence[int], reduction: str) -> dict[str, Any]:
    numel = sum(numels[number] for number in layer.parameters)
    weight_norm = step.weights[layer.parameters].norm().item()
    row = {"layer": name, "kind": layer.kind, "step": step.step, "numel": numel, "weight_norm": weight_norm}
    found = [part for batch in step.batches if (part := batch.of(layer.measured, reduction)) is not None]
    if not found:
        frozen = all(step.frozen[number] for number in layer.parameters)
        return {**row, "examples": 0, "absent": "frozen" if frozen else "not reached"}
    # The norm of the gradient of the loss itself.
    factors = [1 if reduction == "mean" else len(norms) for norms, _, _ in found]
    squares = [(factor * mean).square() for factor, (_, mean, _) in zip(factors, found, strict=True)]
    grad_norm = torch.stack(squares).mean().sqrt().item()
    means = {
        "example_norm": [norms.mean() for norms, _, _ in found],
        "variance": [gradient_variance(norms, mean) for norms, mean, _ in found],
        "gradient_square": [true_gradient_square(norms, mean) for norms, mean, _ in found],
        "diversity": [gradient_diversity(norms, mean) for norms, mean, _ in found],
        "mean_cosine": [mean_cosine(norms, direction) for norms, _, direction in found],
    }
    values = {column: torch.stack(batches).mean() for column, batches in means.items()}
    values["noise_scale"] = simple_noise_scale(values["variance"], values["gradient_square"])
    return {
        **row,
        "grad_norm": grad_norm,
        "grad_rms": grad_norm / math.sqrt(numel),
        "relative": grad_norm / weight_norm if weight_norm else math.nan,
        "examples": sum(len(norms) for norms, _, _ in found),
        **{column: value.item() for column, value in values.items()},
        "non_finite": not all(norms.isfinite().all() for norms, _, _ in found),
        "absent": None,
    }


def example_frame(steps: Sequence[MeasuredStep], layers: Mapping[str, Layer], reduction: str) -> pd.DataFrame:
    """A row an example, layer and step, with columns step, layer, example and norm; the layer `total` last."""
    frames = []
    for step in steps:
        trainable = [number for number, frozen in enumerate(step.frozen) if not frozen]
        for name, layer in {**layers, TOTAL: Layer(TOTAL, trainable)}.items():
            found = [part[0] for batch in step.batches if (part := batch.of(layer.measured, reduction)) is not None]
            if found:
                norms = torch.cat(found).numpy()
                frames.append(
                    pd.DataFrame({"step": step.step, "layer": name, "example": range(len(norms)), "norm": norms})
                )
    return pd.concat(frames, ignore_index=True)
