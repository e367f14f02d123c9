"""Measure the correlation of the input gradients of image networks, for `gradlab shatter --model`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from gradlab.data.batching import Batches
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.accuracy import near_chance, right_answers
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.input_gradients.request import InputGradientsRequest
from gradlab.experiments.input_gradients.segment import fix_statistics, segment, segment_samples
from gradlab.experiments.request import BatchNormMode, Dtype, NormGrad, Progress
from gradlab.experiments.spreading import spread
from gradlab.experiments.subject import (
    assumptions,
    batch_norm_mode,
    each_network,
    forward,
    has_batch_norm,
    images_of,
    is_trained,
    network_facts,
    of_incomplete_batch,
    runner,
)
from gradlab.facts import network_of
from gradlab.models import batch_statistics, weighted_layers
from gradlab.models.detectors import Proposals, is_detector
from gradlab.models.embedded import OfEmbeddings
from gradlab.models.looks_linear import LooksLinearNet
from gradlab.probes import InputGradients
from gradlab.probes.input_gradients import left_out_note, normalization_kind
from gradlab.results.grouping import counted
from gradlab.results.input_gradients.result import InputGradientsResult, Sample
from gradlab.results.record import Stopwatch, make_record
from gradlab.stats import noise_effective_rank
from gradlab.stats.float32 import full_float32
from gradlab.transfer import placed


@full_float32()
def input_gradients(
    models: Sequence[str | nn.Module] | str | nn.Module,
    data: str = "cifar10-sample",
    *,
    weights: str | None = None,
    images: int | None = 200,
    batch_size: int = 100,
    device: str = "auto",
    seed: int = 0,
    seeds: int = 4,
    bn: BatchNormMode | None = None,
    norm_grad: NormGrad = "frozen",
    points: int = 256,
    lags: int = 20,
    normalize: str | Sequence[str] | None = None,
    dtype: Dtype = "float32",
    progress: Progress | None = None,
) -> InputGradientsResult:
    """Measure the correlation of input gradients over images (Balduzzi et al. 2017, arXiv:1702.08591).

    The statistics of every batch are the effective rank of the gradients of the summed logits, relative to Gaussian
    noise of the same shape (with unit rows, and raw), the mean and mean absolute cosine of their pairs, the variation
    of their norms, and the autocorrelation of the gradient along the segment between the first two images of the batch.
    A last batch that is not full is left out, since all statistics except that of the segment depend on the number of
    images. The inputs of a network of tokens are the embeddings of its tokens, and the segment leads from those of one
    sequence to those of another; effective rank and mean cosine are measured over the tokens of each sequence as well.

    Args:
        models: The networks, as specifications for `gl.build` or as modules.
        data: A named data set (see `gl.batches`).
        weights: The weights of networks whose specifications name none.
        images: The number of images to take from the beginning of the data set; None takes all.
        batch_size: The number of images per batch, at least 2.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        seed: The first seed of initial weights, and the seed of noise data.
        seeds: The number of initializations to measure of a network given as `NAME@init`; all others are measured once.
        bn: The statistics for batch normalization: `eval` uses running statistics (the default for trained weights),
            `batch` those of each batch (the default for initial weights); no buffer changes. Along a segment, batch
            statistics are those of the batch of the two images.
        norm_grad: The gradient through statistics, as in `InputGradients`; along a segment they are fixed in any case.
        points: The number of points on a segment, including both ends.
        lags: The largest lag of the autocorrelation, in points.
        normalize: The normalization of the images, one for all networks or one for each; by default the normalization
            with which each network was trained, or else that of the data set.
        dtype: The dtype of the networks, `float32` or `float64`; statistics are in float64 in any case. Plain nets with
            batch statistics amplify rounding: at 56 layers the gradients of single images have errors of a tenth in
            float32, and the statistics errors of 1 to 2 %.
        progress: A function called after every batch.

    Raises:
        UsageError: If the arguments are invalid or inconsistent.
        GradlabError: If something cannot be read or run, or gradients are 0 or not finite.
    """
    stopwatch, request = Stopwatch(), InputGradientsRequest.of(locals())
    where = pick_device(device)

    def measure(label: str, variants: Sequence[nn.Module], normalization: str | None) -> InputGradientsResult:
        stream = images_of(request, variants[0], where, normalization)
        return _measured(variants, label, stream, request, normalization, progress)

    result = InputGradientsResult.concat(each_network(request, measure, seeds=seeds, progress=progress))
    result.record = make_record(
        "input-gradients", options=request.options(), device=device_name(where), stopwatch=stopwatch, **result.record
    )
    return result


def _measured(
    variants: Sequence[nn.Module],
    label: str,
    stream: Batches,
    request: InputGradientsRequest,
    normalize: str | None,
    progress: Progress | None,
) -> InputGradientsResult:
    """The result of one network over all its weights."""
    model = variants[0]
    mode = batch_norm_mode(request.bn, model)
    each = stream.count // stream.batch_size * stream.batch_size

    def measure(place: int) -> tuple[list[Sample], int, float | None]:
        def count(done: int) -> None:
            if progress is not None:
                progress(label, place * each + done * stream.batch_size, len(variants) * stream.count)

        return _samples(variants[place], label, stream, mode, request, count)

    parts = spread(range(len(variants)), measure, progress=progress, label=f"{label}, seeds")
    samples = [found for found, _, _ in parts]
    left_out = sum(missing for _, missing, _ in parts)
    right = [correct for _, _, correct in parts]
    done = sum(map(len, samples)) * stream.batch_size
    facts = network_facts(model, label) | {
        "digests": [getattr(network_of(variant), "digest", None) for variant in variants],
        "data": stream.dataset.name,
        "images": len(samples[0]) * stream.batch_size,
        "normalization": None if stream.normalization is None else str(stream.normalization),
    }
    notes = assumptions(model, label, stream, normalize)
    notes += of_incomplete_batch(label, stream.count, facts["images"])
    if left_out:
        notes.append(left_out_note(label, left_out))
    if len(samples) * len(samples[0]) == 1:
        notes.append(f"{label}: one set of weights and one batch give no standard error")
    if warning := _near_chance(model, label, right, done, stream.dataset.classes):
        facts["near_chance"] = True
        notes.append(warning)
    return InputGradientsResult.from_samples(
        label,
        samples,
        depth=len(weighted_layers(model)),
        norm=normalization_kind(model),
        bn=mode if has_batch_norm(model) else "none",
        norm_grad=request.norm_grad,
        theory=_theory(model, stream),
        notes=[*notes, *_unnormalized(model, label, mode)],
        facts=facts,
    )


def _unnormalized(model: nn.Module, label: str, mode: BatchNormMode) -> list[str]:
    """A note if the running statistics of batch normalization are still those at initialization."""
    if mode == "batch" or is_trained(model) or not has_batch_norm(model):
        return []
    return [f"{label}: running statistics are still 0 and 1, so nothing is normalized; bn batch (--bn) does"]


def _near_chance(
    model: nn.Module, label: str, right: Sequence[float | None], images: int, classes: int | None
) -> str | None:
    """A note if the accuracy of trained weights is not better than chance.

    Args:
        model: The network.
        label: The label of the network.
        right: The number of correct outputs for each set of weights; None if it is not known.
        images: The total number of images.
        classes: The number of classes of the data; None without labels.
    """
    known = [correct for correct in right if correct is not None]
    accuracy = sum(known) / images
    if not (is_trained(model) and classes and len(known) == len(right) and near_chance(accuracy, classes, images)):
        return None
    return (
        f"{label}: {accuracy:.1%} of the images are classified correctly, near chance: these weights are probably "
        "not what their name says, or the normalization is not theirs; they are not compared with others"
    )


def _samples(
    model: nn.Module,
    label: str,
    stream: Batches,
    mode: BatchNormMode,
    request: InputGradientsRequest,
    count: Callable[[int], None],
) -> tuple[list[Sample], int, float | None]:
    """The statistics of every full batch, the number of gradients left out, and the number of correct outputs.

    Everything stays on the device until the last batch is done; `count` is called with the number of batches.
    """
    dtype = getattr(torch, request.dtype)
    clone = placed(runner(model, mode), stream.device, dtype)
    if stream.count < stream.batch_size:
        do = "does" if stream.count == 1 else "do"
        raise UsageError(
            f"{counted(stream.count, 'image')} {do} not fill a batch of {stream.batch_size}: take more images, or "
            "smaller batches (--batch-size)"
        )
    embedded = OfEmbeddings(clone) if stream.dataset.items == "tokens" else None
    network = embedded or (Proposals(clone) if is_detector(clone) else clone)
    probe = InputGradients(network, norm_grad=request.norm_grad, tokens=embedded is not None)
    segments: list[Tensor] = []
    right: list[Tensor | None] = []
    for images, labels in stream:
        if len(images) < stream.batch_size:
            break
        inputs = images.to(dtype) if embedded is None else embedded.embed(images)
        statistics = batch_statistics(clone) if mode == "batch" else nullcontext()
        with torch.no_grad(), statistics, probe:
            outputs = forward(network, label, inputs)
        if mode == "batch":
            fix_statistics(network, label, inputs)
        segments.append(segment(network, label, inputs, request.points, request.lags))
        right.append(_right(outputs, labels, stream.dataset.classes))
        count(len(segments))
    if len(samples := probe.samples) < len(segments):
        raise GradlabError(f"{label}: the input gradients of a batch are 0, NaN or infinite; try dtype float64")
    known = [answers for answers in right if answers is not None]
    correct = float(torch.stack(known).sum()) if len(known) == len(right) else None
    along = segment_samples(label, segments)
    return [{**of_batch, **of_line} for of_batch, of_line in zip(samples, along, strict=True)], probe.left_out, correct


def _right(outputs: Tensor, labels: Tensor | None, classes: int | None) -> Tensor | None:
    """The number of outputs that are largest at their label; None without labels, or with other classes."""
    if labels is None or outputs.shape != (*labels.shape, classes):
        return None
    return right_answers(outputs, labels).sum()


def _theory(model: nn.Module, stream: Batches) -> dict[str, float]:
    """The exact values for a linear function, whose gradients are all equal."""
    if not isinstance(model, LooksLinearNet) or is_trained(model):
        return {}
    n, p = stream.batch_size, torch.Size(stream.input_shape).numel()
    return {
        "relative_effective_rank": 1 / noise_effective_rank(n, p, unit=True),
        "relative_effective_rank_raw": 1 / noise_effective_rank(n, p, unit=False),
        "mean_cosine": 1.0,
        "mean_abs_cosine": 1.0,
        "row_norm_variation": 0.0,
        "segment_lag1": 1.0,
        "segment_power": 0.0,
        "segment_acf": 1.0,
    }
