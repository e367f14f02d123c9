"""Measure how the input gradients of image networks correlate: what `gradlab shatter --model` runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradlab.data.batching import Batches, batches
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.responses import near_chance, right_answers, runner
from gradlab.experiments.subject import (
    BatchNormMode,
    Progress,
    asked_for,
    assumptions,
    forward,
    has_batch_norm,
    is_trained,
    label_of_all,
    network_facts,
    unique_label,
    with_weights,
)
from gradlab.models import batch_statistics, weighted_layers
from gradlab.models.looks_linear import LooksLinearNet
from gradlab.probes import InputGradients, NormGrad
from gradlab.probes.input_gradients import left_out_note, normalization_kind
from gradlab.results import InputGradientsResult, Stopwatch, make_record
from gradlab.results.input_gradients.result import Sample
from gradlab.stats import noise_effective_rank, segment_autocorrelation

Dtype = Literal["float32", "float64"]


@dataclass(frozen=True)
class _Settings:
    """What is the same for all networks of one measurement; see `input_gradients`."""

    bn: BatchNormMode | None
    norm_grad: NormGrad
    points: int
    lags: int
    dtype: Dtype

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("bn", self.bn, (None, "eval", "batch")),
            ("norm_grad", self.norm_grad, ("frozen", "full")),
            ("dtype", self.dtype, ("float32", "float64")),
        ):
            if value not in choices:
                raise UsageError(f"{name} is {' or '.join(filter(None, choices))}, not {value!r}")
        if self.points < 3 or not 1 <= self.lags < self.points:
            raise UsageError(
                f"a segment has at least 3 points and lags from 1 to points − 1, not {self.points} points and "
                f"{self.lags} lags"
            )

    def batch_norm(self, model: nn.Module) -> BatchNormMode:
        """Whose statistics the batch normalization of a network uses."""
        return self.bn or ("eval" if is_trained(model) else "batch")


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
    """Correlation of the input gradients of several networks over images (Balduzzi et al. 2017, arXiv:1702.08591).

    For every batch: the effective rank of the gradients of the summed logits, relative to Gaussian noise of the
    same shape (unit rows, and raw), mean and mean absolute cosine of their pairs, the variation of their norms,
    and the autocorrelation of the gradient along the segment between the batch's first two images. A last batch
    that is not full is left out, since all but the segment depends on the number of images.

    Args:
        models: Networks as `gl.build` reads them, or modules.
        data: A named data set (see `gl.batches`).
        weights: Where a model names none.
        images: Only the first so many; None takes all.
        batch_size: Images a batch, at least 2.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        seed: First seed of initial weights, and the seed of noise data.
        seeds: Initial weights to measure of a network given as `NAME@init`; all others are measured once.
        bn: Statistics of batch normalization: `eval` takes the running ones (the default for trained
            weights), `batch` those of each batch (the default for initial weights); no buffer changes. Along a
            segment the batch's statistics are those of the batch that the two images come from.
        norm_grad: As in `InputGradients`; along a segment the statistics are fixed in either case.
        points: Points on a segment, both ends included.
        lags: Largest lag of the autocorrelation, in points.
        normalize: Normalization of the images, one for all networks or one each; by default what each
            network's weights were trained with, else the data set's own.
        dtype: `float32` or `float64`, in which the networks run; statistics are in float64 either way. Plain nets
            with batch statistics amplify rounding: at 56 layers the gradients of float32 are off by a tenth, image
            by image, and the statistics by 1 to 2 %.
        progress: Called after every batch.

    Raises:
        UsageError: For a request that cannot be meant.
        GradlabError: When something cannot be read or run, or gradients are 0 or not finite.
    """
    stopwatch = Stopwatch()
    settings = _Settings(bn, norm_grad, points, lags, dtype)
    asked = asked_for(models, normalize)
    if batch_size < 2 or seeds < 1:
        raise UsageError(
            f"batches have at least 2 images, and there is at least one seed; got {batch_size} and {seeds}"
        )
    where = pick_device(device)
    results: list[InputGradientsResult] = []
    for spec, normalization in asked:
        variants = [
            (model, batches(data, batch_size, model, device=where, images=images, normalize=normalization, seed=seed))
            for model in with_weights(spec, weights, range(seed, seed + seeds))
        ]
        taken = [result.networks[0] for result in results]
        results.append(_measured(variants, settings, taken, normalization, progress))
    result = InputGradientsResult.concat(results)
    options: dict[str, Any] = {
        "models": [spec if isinstance(spec, str) else type(spec).__name__ for spec, _ in asked],
        "weights": weights,
        "data": data,
        "images": images,
        "batch_size": batch_size,
        "seed": seed,
        "seeds": seeds,
        **asdict(settings),
        "normalize": normalize if isinstance(normalize, str | None) else list(normalize),
    }
    result.record = make_record(
        "input-gradients", options=options, device=device_name(where), stopwatch=stopwatch, **result.record
    )
    return result


def _measured(
    variants: Sequence[tuple[nn.Module, Batches]],
    settings: _Settings,
    taken: list[str],
    normalize: str | None,
    progress: Progress | None,
) -> InputGradientsResult:
    """One network's result over all its weights."""
    model, stream = variants[0]
    label = unique_label(label_of_all([variant for variant, _ in variants]), taken)
    samples: list[list[Sample]] = []
    total, done, left_out = stream.count * len(variants), 0, 0
    right: list[int | None] = []
    for variant, images in variants:
        samples.append([])
        for sample, missing, correct in _samples(variant, label, images, settings):
            samples[-1].append(sample)
            left_out += missing
            right.append(correct)
            done += images.batch_size
            if progress is not None:
                progress(label, done, total)
    mode = settings.batch_norm(model) if has_batch_norm(model) else "none"
    normalization = None if stream.normalization is None else str(stream.normalization)
    notes = assumptions(model, label, normalization, normalize)
    if left_out:
        notes.append(left_out_note(label, left_out))
    if mode == "eval" and not is_trained(model):
        notes.append(f"{label}: running statistics are still 0 and 1, so nothing is normalized; bn batch (--bn) does")
    if len(samples) * len(samples[0]) == 1:
        notes.append(f"{label}: one set of weights and one batch give no standard error")
    facts = network_facts(model, label) | {
        "digests": [getattr(getattr(variant, "network", None), "digest", None) for variant, _ in variants],
        "data": stream.dataset.name,
        "images": len(samples[0]) * stream.batch_size,
        "normalization": normalization,
    }
    known = [correct for correct in right if correct is not None]
    accuracy, classes = sum(known) / done, stream.dataset.classes
    if is_trained(model) and classes and len(known) == len(right) and near_chance(accuracy, classes, done):
        facts["near_chance"] = True
        notes.append(
            f"{label}: {accuracy:.1%} of the images are classified rightly, near chance: these weights are probably "
            "not what their name says, or the normalization is not theirs; they are compared with no other"
        )
    return InputGradientsResult.from_samples(
        label,
        samples,
        depth=len(weighted_layers(model)),
        norm=normalization_kind(model),
        bn=mode,
        norm_grad=settings.norm_grad,
        theory=_theory(model, stream),
        notes=notes,
        facts=facts,
    )


def _samples(
    model: nn.Module, label: str, stream: Batches, settings: _Settings
) -> Iterator[tuple[Sample, int, int | None]]:
    """The statistics of every full batch, how many of its gradients are left out, and how many outputs are right."""
    mode = settings.batch_norm(model)
    dtype = getattr(torch, settings.dtype)
    clone = runner(model, mode).to(stream.device, dtype)
    if stream.count < stream.batch_size:
        raise UsageError(f"{stream.count} images do not fill a batch of {stream.batch_size}")
    for images, labels in stream:
        if len(images) < stream.batch_size:
            return
        images = images.to(dtype)
        statistics = batch_statistics(clone) if mode == "batch" else nullcontext()
        with torch.no_grad(), statistics, InputGradients(clone, norm_grad=settings.norm_grad) as probe:
            outputs = forward(clone, label, images)
        if not probe.samples:
            raise GradlabError(f"{label}: the input gradients of a batch are 0, NaN or infinite; try dtype float64")
        if mode == "batch":
            _fix_statistics(clone, label, images)
        yield (
            {**probe.samples[0], **_segment(clone, label, images, settings)},
            probe.left_out,
            _right(outputs, labels, stream.dataset.classes),
        )


def _right(outputs: Tensor, labels: Tensor | None, classes: int | None) -> int | None:
    """How many outputs are largest at their label; None where there are no labels, or outputs of other classes."""
    if labels is None or outputs.ndim != 2 or outputs.shape[1] != classes:
        return None
    return int(right_answers(outputs, labels).sum())


def _segment(model: nn.Module, label: str, images: Tensor, settings: _Settings) -> Sample:
    """Autocorrelation of the input gradient along the segment between the first two images."""
    place = torch.linspace(0, 1, settings.points, dtype=images.dtype, device=images.device)
    line = torch.lerp(images[:1], images[1:2], place.view(-1, *[1] * (images.ndim - 1)))
    gradients: list[Tensor] = []
    with torch.no_grad(), InputGradients(model, observe=gradients.append):
        for part in line.split(len(images)):
            forward(model, label, part)
    signal = torch.cat(gradients).flatten(1)
    if not signal.isfinite().all():
        raise GradlabError(f"{label}: input gradients between two images are not finite; try dtype float64")
    autocorrelation, power = segment_autocorrelation(signal, settings.lags)
    acf = autocorrelation.tolist()
    return {"segment_lag1": acf[1], "segment_power": power, "segment_acf": acf}


@torch.no_grad()
def _fix_statistics(model: nn.Module, label: str, images: Tensor) -> None:
    """Make a batch's statistics the running ones: mean and biased variance, in the model given."""
    fixed: set[nn.Module] = set()

    def fix(module: _BatchNorm, args: tuple[Tensor]) -> None:
        if module in fixed:
            raise GradlabError(f"{label} calls one batch normalization twice: along a segment it cannot be fixed")
        fixed.add(module)
        over = [0, *range(2, args[0].ndim)]
        # Set before the module runs, so that one pass in eval mode fixes every layer in turn.
        module.running_mean = args[0].mean(over)
        module.running_var = args[0].var(over, correction=0)

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                hooks.enter_context(module.register_forward_pre_hook(fix))
        forward(model, label, images)


def _theory(model: nn.Module, stream: Batches) -> dict[str, float]:
    """The exact values for a function that is linear: all its gradients are equal."""
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
