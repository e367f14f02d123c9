"""Forward and backward passes of one network over its images, probes attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from gradlab.data import Batches
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.subjects import BatchNormMode, copy_of, forward
from gradlab.models import batch_statistics
from gradlab.probes import ParameterGradients, ResponseGradients
from gradlab.probes.selection import Selection
from gradlab.results import GradientsResult

Dtype = Literal["float32", "float64"]
LossName = Literal["cross-entropy", "sum"]

AVERAGED = ("grad_norm", "grad_rms", "relative", "response_grad_rms", "response_grad_norm")
"""Columns that are averaged over batches with statistics of their own."""


@dataclass(frozen=True)
class Pass:
    """One network with one set of weights, and what its gradients are taken of; see `gl.gradients`."""

    model: nn.Module
    label: str
    stream: Batches
    bn: BatchNormMode
    loss: LossName
    layers: Selection
    per_example: bool

    def __post_init__(self) -> None:
        if self.bn == "batch" and self.stream.count < self.stream.batch_size:
            raise UsageError(f"{self.stream.count} images do not fill a batch of {self.stream.batch_size}")

    @property
    def images(self) -> int:
        """How many are measured: with batch statistics only those that fill batches."""
        whole = self.stream.count - self.stream.count % self.stream.batch_size
        return whole if self.bn == "batch" else self.stream.count

    def on_few(self, images: int) -> Pass:
        """The same on one batch of the first images."""
        few = min(images, self.images)
        return replace(self, stream=replace(self.stream, batch_size=few, count=few), per_example=False)

    def batches(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Images and labels, batch by batch."""
        done = 0
        for images, labels in self.stream:
            done += len(images)
            if done > self.images:
                return
            yield images.to(dtype), labels


def measure(part: Pass, dtype: torch.dtype, count: Callable[[int], None] | None = None) -> GradientsResult:
    """Gradients of a network in one dtype: a row a layer, and a row the output of a block.

    Args:
        part: The network, and what to measure.
        dtype: Of its arithmetic.
        count: Called with the images done after every batch.

    Raises:
        UsageError: For data without the labels that the loss needs.
        GradlabError: When the network cannot run, or there is no gradient.
    """
    model = copy_of(part.model).to(part.stream.device, dtype)
    if not any(parameter.requires_grad for parameter in model.parameters()) and any(model.parameters()):
        raise GradlabError(f"{part.label}: every parameter is frozen (requires_grad is off): there is no gradient")
    model.zero_grad()
    done, correct, losses = 0, 0, 0.0
    classes = 0
    statistics = batch_statistics(model) if part.bn == "batch" else nullcontext()
    with (
        statistics,
        ParameterGradients(model, part.layers) as of_weights,
        ResponseGradients(model, part.layers) as of_responses,
    ):
        for images, labels in part.batches(dtype):
            output = forward(model, part.label, images)
            each = losses_of_examples(part, output, labels)
            # A mean over all images, or over the batch whose statistics were used.
            loss = each.sum() / (len(images) if part.bn == "batch" else part.images)
            _backward(loss, part.label)
            done += len(images)
            losses += each.sum().item()
            if labels is not None and part.loss == "cross-entropy":
                correct, classes = correct + int((output.argmax(1) == labels).sum()), output.shape[1]
            if part.bn == "batch" or done == part.images:
                of_weights.step()
                of_responses.step()
                model.zero_grad()
            if count is not None:
                count(done)
    result = GradientsResult.join([probe.result(part.label) for probe in (of_weights, of_responses)])
    result.frame = averaged(result.frame)
    facts = {"loss": losses / done, "accuracy": correct / done if classes else None, "classes": classes}
    result.record["networks"] = [{"network": part.label, **facts}]
    return result


def losses_of_examples(part: Pass, output: Tensor, labels: Tensor | None) -> Tensor:
    """The loss of each image.

    Raises:
        UsageError: When there are no labels, or not labels of these outputs.
    """
    if output.ndim == 0 or not output.numel():
        raise GradlabError(f"{part.label} returns no tensor, so it has no loss")
    if part.loss == "sum":
        return output.flatten(1).sum(1)
    data = part.stream.dataset.name
    if labels is None:
        raise UsageError(f"{data} has no labels, which cross-entropy needs: loss sum (--loss sum) does without")
    if output.ndim != 2 or int(labels.max()) >= output.shape[1]:
        raise UsageError(
            f"{part.label} gives outputs of shape {tuple(output.shape)}, which do not fit the labels 0 to "
            f"{int(labels.max())} of {data}: loss sum (--loss sum) does without labels"
        )
    return nn.functional.cross_entropy(output, labels, reduction="none")


def _backward(loss: Tensor, label: str) -> None:
    if not loss.requires_grad:
        raise GradlabError(f"{label}: the loss does not depend on any parameter: there is no gradient")
    loss.backward()  # type: ignore[no-untyped-call]


def averaged(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a layer from a row a layer and batch: means of norms and RMS values, with the number of batches."""
    key = ["network", "block", "layer", "call"]
    frame = frame.assign(batches=frame.groupby(key, sort=False)["step"].transform("nunique"))
    means = {name: frame.groupby(key, sort=False)[name].transform("mean") for name in AVERAGED}
    frame = frame.assign(**means, non_finite=frame.groupby(key, sort=False)["non_finite"].transform("any"))
    return frame[frame["step"] == frame["step"].min()].reset_index(drop=True)
