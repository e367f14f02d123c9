"""Measure the gradients of named networks layer by layer, for `gradlab gradients`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import nn

from gradlab.data.batching import Batches
from gradlab.errors import UsageError
from gradlab.experiments.accuracy import near_chance
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.gradients.float32 import float32_notes, measure_soundly
from gradlab.experiments.gradients.passes import Pass, boxes_of
from gradlab.experiments.gradients.request import GradientsRequest, LossName, Mode
from gradlab.experiments.gradients.theory import predicted_gradients
from gradlab.experiments.request import BatchNormMode, Dtype, Progress
from gradlab.experiments.spreading import spread
from gradlab.experiments.subject import (
    assumptions,
    batch_norm_mode,
    each_network,
    has_batch_norm,
    images_of,
    is_trained,
    naming,
    network_facts,
    of_incomplete_batch,
    of_other_data,
)
from gradlab.facts import network_of
from gradlab.models import weighted_layers
from gradlab.models.detectors import LOSSES, is_detector
from gradlab.networks import split_spec
from gradlab.probes.selection import Selection
from gradlab.results.gradients.result import GradientsResult
from gradlab.results.record import Stopwatch, make_record
from gradlab.stats.float32 import full_float32


@full_float32()
def gradients(
    models: Sequence[str | nn.Module] | str | nn.Module,
    data: str = "cifar10-sample",
    *,
    weights: str | None = None,
    images: int | None = 128,
    batch_size: int = 128,
    device: str = "auto",
    seed: int = 0,
    seeds: int = 5,
    loss: LossName = "cross-entropy",
    mode: Mode = "parameters",
    bn: BatchNormMode | None = None,
    layers: Selection = None,
    normalize: str | Sequence[str] | None = None,
    dtype: Dtype | None = None,
    per_example: bool = False,
    progress: Progress | None = None,
) -> GradientsResult:
    """Measure norms of the gradients of the loss by weights and responses of several networks, layer by layer.

    With running statistics (`bn` eval) the loss is the mean over all images, and its gradient is summed exactly, batch
    by batch. With batch statistics (`bn` batch) each full batch has its own mean loss and gradient, and norms are
    averaged over batches; a last batch that is not full is left out.

    Args:
        models: The networks, as specifications for `gl.build` or as modules.
        data: A named data set (see `gl.batches`).
        weights: The weights of networks whose specifications name none.
        images: The number of images to take from the beginning of the data set; None takes all.
        batch_size: The number of images per batch, at most the number of images.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        seed: The first seed of initial weights, and the seed of noise data.
        seeds: The number of initializations to measure of a network given as `NAME@init`; all others are measured once.
            A plain and a residual net of the same depth and seed have bitwise equal weights.
        loss: The loss: `cross-entropy`, or `sum`, the sum of the outputs averaged over images, for data without labels.
            Of a detector each of the four terms of its loss is measured, and their sum; with `sum` the sum alone.
        mode: The quantity in table and figure: `parameters`, the norms of the weights' gradients, or `responses`, the
            RMS of the gradient with respect to each layer's response, over images, channels and positions. The frame
            has both.
        bn: The statistics for batch normalization: `eval` uses running statistics (the default for trained weights and
            for single examples), `batch` those of each batch (the default for initial weights); no buffer changes.
        layers: The layers to measure, as in `ParameterGradients`.
        normalize: The normalization of the images, one for all networks or one for each; by default the normalization
            with which each network was trained, or else that of the data set.
        dtype: The dtype of the arithmetic. None takes float32, or float64 for weights with which float32 has an error
            above `FLOAT32_BOUND` at a layer in a small batch, or, for single examples, with which the loss of one is
            below `CERTAIN`. `float32` only marks these cases.
        per_example: Also measure the gradient of each image's own loss, layer by layer (see `ExampleGradients`).
        progress: A function called after every batch.

    Raises:
        UsageError: If the arguments are invalid or inconsistent.
        GradlabError: If something cannot be read or run, or there is no gradient.
    """
    stopwatch, request = Stopwatch(), GradientsRequest.of(locals())
    where = pick_device(device)

    def measure(label: str, variants: Sequence[nn.Module], normalization: str | None) -> GradientsResult:
        stream = _filled(images_of(request, variants[0], where, normalization))
        # Batch statistics would couple the examples.
        statistics = batch_norm_mode("eval" if per_example else bn, variants[0])
        passes = [Pass(model, label, stream, statistics, loss, layers, per_example) for model in variants]
        if is_detector(variants[0]):
            return _detector(passes, request, normalization, progress)
        return _network(passes, request, normalization, progress)

    result = GradientsResult.concat(each_network(request, measure, seeds=seeds, progress=progress))
    result.record = make_record(
        "gradients", options=request.options(), device=device_name(where), stopwatch=stopwatch, **result.record
    )
    return result


def _detector(
    passes: Sequence[Pass], request: GradientsRequest, normalize: str | None, progress: Progress | None
) -> GradientsResult:
    """The result of a detector: that of each term of its loss, and that of their sum."""
    if request.per_example:
        raise UsageError(f"{passes[0].label}: the loss of a detector is one of all images: no example has its own")
    # The labels of the terms do not name the detector.
    boxes_of(passes[0].label, passes[0].stream, next(iter(passes[0].stream))[1])
    terms = ("sum",) if request.loss == "sum" else (*LOSSES, "sum")
    # Of one detector the terms tell its rows apart, and a legend has no room for its name.
    name, weights = ("", "") if len(request.listed_models()) == 1 else split_spec(passes[0].label)
    behind = f"@{weights}" if weights else ""
    results = []
    for term in terms:
        own = [_of_term(part, term, f"{name} {term}{behind}".lstrip()) for part in passes]
        results.append(_network(own, request, normalize, progress))
        results[-1].notes = naming(own[0].label, results[-1])
        for facts in results[-1].record["networks"]:
            facts["name"] += f" {term}"
    result = GradientsResult.concat(results)
    of_data = of_other_data(passes[0].label, passes[0].stream)
    result.notes = [*of_data, *dict.fromkeys(result.notes), *_parts_of_detectors(result)]
    return result


def _of_term(part: Pass, term: str, label: str) -> Pass:
    """The pass of one term of a detector's loss; its data is told once, of the detector."""
    return replace(part, label=label, loss=term, stream=replace(part.stream, instead_of=None))


def _parts_of_detectors(result: GradientsResult) -> list[str]:
    """A note on each term: the norms of its gradient by backbone, feature pyramid and heads, averaged over seeds."""
    notes = []
    for network in result.networks:
        rows = result.layers()[lambda frame, network=network: frame["network"] == network]
        part = rows["layer"].str.extract(r"^(backbone\.(?:body|fpn)|\w+)", expand=False)
        squares = rows["grad_norm"].astype(float).pow(2).groupby([part, rows["seed"].fillna(-1)], sort=False).sum()
        norms = squares.pow(0.5).groupby(level=0, sort=False).mean()
        notes.append(f"{network}: norm of the gradient {', '.join(f'{v:.3g} in {k}' for k, v in norms.items())}")
    return notes


def _filled(stream: Batches) -> Batches:
    """The same images, in batches of which at least one is full."""
    return replace(stream, batch_size=min(stream.batch_size, stream.count))


def _network(
    passes: Sequence[Pass], request: GradientsRequest, normalize: str | None, progress: Progress | None
) -> GradientsResult:
    """The result of one network over all its weights."""
    first = passes[0]
    model, label, stream = first.model, first.label, first.stream
    total = sum(part.images for part in passes)

    def measure(place: int) -> GradientsResult:
        part, done = passes[place], sum(earlier.images for earlier in passes[:place])
        count = None if progress is None else (lambda n: progress(label, done + n, total))
        measured = measure_soundly(part, request.dtype, count)
        own = request.seed + place if len(passes) > 1 else _own_seed(part.model)
        measured.frame["seed"] = own
        if measured.examples is not None:
            measured.examples["seed"] = own
        return measured

    parts = spread(range(len(passes)), measure, progress=progress, label=f"{label}, seeds")
    digests = [getattr(network_of(part.model), "digest", None) for part in passes]
    result = GradientsResult.concat(parts)
    result.notes = list(dict.fromkeys([*result.notes, *float32_notes(first, result.frame, request.dtype)]))
    result.frame["seed"] = result.frame["seed"].astype("Int64")
    claim = _add_theory(result.frame, first, request)
    facts = _facts(passes, result, digests) | {"claim": claim}
    result.record = {"networks": [facts]}
    result.notes += assumptions(model, label, stream, normalize)
    if facts["near_chance"]:
        result.notes.append(
            f"{label}: {facts['accuracy']:.1%} of the images are classified correctly, near chance: these weights are "
            "probably not what their name says, or the normalization is not theirs"
        )
    result.notes += of_incomplete_batch(label, stream.count, first.images)
    return result


def _add_theory(frame: pd.DataFrame, part: Pass, request: GradientsRequest) -> str | None:
    """Fill in the column theory, and return the key of its claim."""
    images, _ = next(iter(part.stream))
    prediction = predicted_gradients(
        part.model,
        part.bn,
        int(images.shape[-1]),
        responses=request.mode == "responses",
        summed=request.loss == "sum",
    )
    norms = {} if prediction is None else prediction.norms
    frame["theory"] = frame["layer"].map(norms).where(~frame["block"]).astype(float)
    return None if prediction is None else prediction.claim.key


def _facts(passes: Sequence[Pass], result: GradientsResult, digests: list[str | None]) -> dict[str, Any]:
    """The facts on a network for the record."""
    first = passes[0]
    parts = result.record["networks"]
    accuracy = parts[0]["accuracy"] if len(parts) == 1 and is_trained(first.model) else None
    return network_facts(first.model, first.label) | {
        "coverage": parts[0].get("coverage"),
        "digests": digests,
        "depth": len(weighted_layers(first.model)),
        "bn": first.bn if has_batch_norm(first.model) else "none",
        "data": first.stream.dataset.name,
        "images": first.images,
        "normalization": None if first.stream.normalization is None else str(first.stream.normalization),
        "loss": [part["loss"] for part in parts],
        "accuracy": accuracy,
        "near_chance": accuracy is not None and near_chance(accuracy, parts[0]["classes"], first.images),
    }


def _own_seed(model: nn.Module) -> int | None:
    """The seed of initial weights; None for other weights."""
    kind, _, seed = getattr(network_of(model), "weights", "").partition(":")
    return int(seed) if kind == "init" else None
