"""Forward and backward passes of one network over its images, with probes attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gradlab.data.batching import Batches
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.accuracy import cross_entropies, fits, right_answers
from gradlab.experiments.gradients.request import LossName
from gradlab.experiments.request import BatchNormMode
from gradlab.experiments.subject import copy_of, forward, seen_by_probe
from gradlab.models import batch_statistics
from gradlab.models.detectors import LOSSES, detection_losses, is_detector
from gradlab.probes import ExampleGradients, ParameterGradients, ResponseGradients
from gradlab.probes.gradient_notes import gradient_notes
from gradlab.probes.selection import Selection, depth_layers
from gradlab.results.gradients.result import TOTAL, GradientsResult
from gradlab.stats import l2_norms
from gradlab.stats.precision import widest
from gradlab.transfer import placed

Probe = ParameterGradients | ResponseGradients | ExampleGradients

AVERAGED = ("grad_norm", "grad_rms", "relative", "response_grad_rms", "response_grad_norm")
"""The columns that are averaged over batches with their own statistics."""


@dataclass(frozen=True)
class Pass:
    """One network with one set of weights, and the data and loss for its gradients; see `gl.gradients`."""

    model: nn.Module
    label: str
    stream: Batches
    bn: BatchNormMode
    loss: LossName | str
    layers: Selection
    per_example: bool

    @property
    def images(self) -> int:
        """The number of measured images: with batch statistics only those in full batches."""
        whole = self.stream.count - self.stream.count % self.stream.batch_size
        return whole if self.bn == "batch" else self.stream.count

    def on_few(self, images: int) -> Pass:
        """The same pass on one batch of the first images."""
        few = min(images, self.images)
        return replace(self, stream=replace(self.stream, batch_size=few, count=few), per_example=False)

    def batches(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Images and labels, batch by batch."""
        done = 0
        for images, labels in replace(self.stream, dtype=dtype):
            done += len(images)
            if done > self.images:
                return
            yield images, labels


def measure(part: Pass, dtype: torch.dtype, count: Callable[[int], None] | None = None) -> GradientsResult:
    """Measure the gradients of a network in one dtype, with one row per layer and one per output of a block.

    Args:
        part: The network, its data and its loss.
        dtype: The dtype of the arithmetic.
        count: A function called with the number of images done after every batch.

    Raises:
        UsageError: If the data has no labels and the loss needs them.
        GradlabError: If the network cannot run, or there is no gradient.
    """
    model, chosen = _copied(part, dtype)
    probes: list[Probe] = [ParameterGradients(model, chosen), ResponseGradients(model, chosen)]
    if part.per_example:
        probes.append(ExampleGradients(model, part.layers, reduction="sum"))
    losses, facts = _run(part, model, probes, dtype, count)
    with seen_by_probe(part.label, "has no gradient at the layers to measure: choose others (--layers)"):
        results = [probe.result(part.label) for probe in probes]
    # Gradients of single examples are measured in every layer, since the total needs them.
    rows = {TOTAL, *results[0].frame["layer"], *results[1].frame["layer"]}
    for one in results[2:]:
        one.frame = one.frame[one.frame["layer"].isin(rows)]
    result = GradientsResult.join(results)
    result.notes = _told_once(result, results)
    if part.per_example:
        _fill_total(result, [*model.parameters()] if part.layers is None else None)
    # If gradients were summed, the statistics are over the images of the whole measurement.
    result.frame = averaged(result.frame, 1 if part.bn == "batch" else part.images)
    if isinstance(probes[-1], ExampleGradients):
        examples = probes[-1].examples()
        examples = examples[examples["layer"].isin(rows)]
        result.examples = _with_losses(examples, losses, part.label)
    result.record["networks"] = [{"network": part.label, "coverage": result.facts(part.label).get("coverage"), **facts}]
    return result


def _told_once(result: GradientsResult, parts: Sequence[GradientsResult]) -> list[str]:
    """The notes of a joined result, of which one tells where gradients are not finite, whatever probe has seen them."""
    each = {note for part in parts for note in _not_finite(part.frame)}
    others = [note for note in result.notes if note not in each]
    # Where a layer has such gradients, so do the blocks around it.
    layers = result.layers()
    return [*(_not_finite(layers) or _not_finite(result.frame)), *others]


def _not_finite(frame: pd.DataFrame) -> list[str]:
    """The note of a probe on the rows of which the gradient is not finite, if there are any."""
    rows = frame[["layer", "step", "non_finite"]].to_dict("records")
    return gradient_notes([{str(name): value for name, value in row.items()} for row in rows])


def weight_norms(part: Pass, dtype: torch.dtype) -> pd.Series:
    """The norm of the gradient of each layer's weight, by layer, for a pass of one batch; as `measure` measures it.

    Args:
        part: The network, its data and its loss.
        dtype: The dtype of the arithmetic.
    """
    model, chosen = _copied(part, dtype)
    probe = ParameterGradients(model, chosen)
    _run(part, model, [probe], dtype, None)
    norms: pd.Series = probe.result(part.label).layers().groupby("layer")["grad_norm"].mean()
    return norms


def _copied(part: Pass, dtype: torch.dtype) -> tuple[nn.Module, Selection]:
    """A copy of the network in a dtype, where its data is, and the layers to measure.

    Raises:
        GradlabError: If there is no gradient.
    """
    model = placed(copy_of(part.model), part.stream.device, dtype)
    parameters = list(model.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        raise GradlabError(f"{part.label}: every parameter is frozen (requires_grad is off): there is no gradient")
    # In a network of convolutions and linear layers, the layers that count towards its depth are shown.
    return model, depth_layers(model) if part.layers is None else part.layers


def _run(
    part: Pass, model: nn.Module, probes: Sequence[Probe], dtype: torch.dtype, count: Callable[[int], None] | None
) -> tuple[Tensor, dict[str, Any]]:
    """Run the network and the backward pass over all batches; return the losses of images, and loss and accuracy.

    The parameters keep the gradients of the last step.
    """
    done, classes = 0, 0
    losses: list[Tensor] = []
    right: list[Tensor] = []
    wide = widest(part.stream.device)
    statistics = batch_statistics(model) if part.bn == "batch" else nullcontext()
    backward = next((probe.backward for probe in probes if isinstance(probe, ExampleGradients)), Tensor.backward)
    with statistics, ExitStack() as stack:
        for probe in probes:
            stack.enter_context(probe)
        for images, labels in part.batches(dtype):
            if part.bn == "batch" or not done:
                model.zero_grad()
            each, output = losses_and_output(part, model, images, labels)
            loss = each.mean() if part.bn == "batch" else each.sum()
            if not loss.requires_grad:
                raise GradlabError(f"{part.label}: the loss does not depend on any parameter: there is no gradient")
            backward(loss)
            losses.append(each.detach().to(wide))
            done += len(images)
            if labels is not None and part.loss == "cross-entropy":
                right.append(right_answers(output, labels).to(wide))
                classes = output.shape[-1]
            if part.bn == "batch" or done == part.images:
                for probe in probes:
                    probe.step()
            if count is not None:
                count(done)
    found = [torch.cat(values) for values in (losses, right) if values]
    all_losses, *answers = torch.stack(found).cpu().double()
    accuracy = answers[0].mean().item() if answers else None
    return all_losses, {"loss": all_losses.mean().item(), "accuracy": accuracy, "classes": classes}


def _fill_total(result: GradientsResult, parameters: Sequence[nn.Parameter] | None) -> None:
    """Set the norm in the row of all parameters to that of their gradient over all batches.

    Args:
        result: The result of one step.
        parameters: The parameters with their gradients; None stands for the weights of the measured layers.
    """
    if parameters is None:
        total = result.layers()["grad_norm"].astype(float).pow(2).sum() ** 0.5
    else:
        total = l2_norms([p.grad for p in parameters if p.grad is not None]).norm().item()
    result.frame.loc[result.frame["kind"] == TOTAL, "grad_norm"] = total


def _with_losses(examples: pd.DataFrame, losses: Tensor, label: str) -> pd.DataFrame:
    """One row per image and layer: network, seed (to be filled in), example, loss, layer, norm."""
    examples = examples.assign(network=label, seed=None, loss=losses.numpy()[examples["example"]])
    return examples[["network", "seed", "example", "loss", "layer", "norm"]]


def losses_and_output(part: Pass, model: nn.Module, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss of each image, and the output; of a detector the term of the loss of the batch, for every image."""
    if is_detector(model):
        return detector_loss(part, model, images, labels).expand(len(images)), torch.empty(0)
    output = forward(model, part.label, images)
    return losses_of_examples(part, output, labels), output


def detector_loss(part: Pass, model: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    """A term of a detector's loss, or their sum, over the regions of all images of a batch."""
    seed, boxes = getattr(part.stream.dataset, "seed", 0), boxes_of(part.label, part.stream, labels)
    return detection_losses(model, images, boxes, seed)[part.loss if part.loss in LOSSES else "sum"]


def boxes_of(label: str, stream: Batches, labels: Tensor | None) -> Tensor:
    """The labels of a batch for the detector of this label, if they are boxes.

    Raises:
        UsageError: If the data has no boxes.
    """
    if labels is None or labels.ndim != 3:
        raise UsageError(f"{label} is a detector, and {stream.dataset.name} has no boxes: give --data boxes")
    return labels


def losses_of_examples(part: Pass, output: Tensor, labels: Tensor | None) -> Tensor:
    """The loss of each image, or the mean loss over the tokens of each sequence.

    Raises:
        UsageError: If there are no labels, or they do not fit the outputs.
    """
    if output.ndim == 0 or not output.numel():
        raise GradlabError(f"{part.label} returns no tensor, so it has no loss")
    if part.loss == "sum":
        return output.reshape(len(output), -1).sum(1)
    data, largest = part.stream.dataset.name, part.stream.largest_label
    if labels is None:
        raise UsageError(f"{data} has no labels, which cross-entropy needs: loss sum (--loss sum) does without")
    if not fits(output, labels, largest):
        raise UsageError(
            f"{part.label} gives outputs of shape {tuple(output.shape)}, which do not fit the labels "
            f"{'' if largest is None else f'0 to {largest} '}of {data}: loss sum (--loss sum) does without labels"
        )
    return cross_entropies(output, labels)


def averaged(frame: pd.DataFrame, images: int) -> pd.DataFrame:
    """Average the rows of each layer over batches: the means of norms and RMS values, with the number of batches.

    Args:
        frame: A gradients frame with one step per batch.
        images: The number of images, by which the sums of losses are divided.
    """
    key = ["network", "block", "layer", "call"]
    frame = frame.assign(batches=frame.groupby(key, sort=False)["step"].transform("nunique"))
    means = {name: frame.groupby(key, sort=False)[name].transform("mean") / images for name in AVERAGED}
    frame = frame.assign(**means, non_finite=frame.groupby(key, sort=False)["non_finite"].transform("any"))
    return frame[frame["step"] == frame["step"].min()].reset_index(drop=True)
