"""Measure the layer responses of named networks on a data set: what `gradlab responses` runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.data.batching import Batches
from gradlab.experiments.accuracy import cross_entropies, near_chance, right_answers
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.request import BatchNormMode, Progress
from gradlab.experiments.responses.request import ResponsesRequest
from gradlab.experiments.subject import (
    assumptions,
    batch_norm_mode,
    forward,
    has_batch_norm,
    images_of,
    is_trained,
    network_facts,
    networks,
    runner,
)
from gradlab.models import batch_statistics, is_foldable
from gradlab.probes import ResponseStd, predicted_response_std
from gradlab.probes.responses import response_row
from gradlab.probes.selection import Selection, paper_layers
from gradlab.probes.targets import response_targets
from gradlab.results.record import Stopwatch, make_record
from gradlab.results.responses.result import ResponsesResult


def responses(
    models: Sequence[str | nn.Module] | str | nn.Module,
    data: str = "cifar10-sample",
    *,
    weights: str | None = None,
    images: int | None = None,
    batch_size: int = 100,
    device: str = "auto",
    seed: int = 0,
    bn: BatchNormMode | None = None,
    layers: Selection = None,
    normalize: str | Sequence[str] | None = None,
    exact: bool = False,
    no_data: bool = False,
    same_recipe: bool = False,
    progress: Progress | None = None,
) -> ResponsesResult:
    """Standard deviation of layer responses of several networks (He et al. 2015, §4.2, Fig. 7).

    Args:
        models: Networks as `gl.build` reads them, or modules.
        data: A named data set (see `gl.batches`).
        weights: Where a model names none.
        images: Only the first so many.
        batch_size: Images a batch.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: Seed of initial weights and of noise.
        bn: `eval` normalizes with running statistics (the default for trained weights), `batch` with those
            of each batch (the default for initial weights); either way no buffer changes.
        layers: As in `ResponseStd`, but None takes the layers of the paper's figure: a convolutional network's
            convolutions without the projections of shortcuts, and every layer of any other.
        normalize: Normalization of the images, one for all networks or one each; by default what each
            network's weights were trained with, else the data set's own.
        exact: Centred float64 statistics, for responses with a mean far from 0.
        no_data: Predict from batch-normalization parameters; no image is read.
        same_recipe: Compare networks whose recipe is unknown, as being of one.
        progress: Called after every batch.

    Raises:
        UsageError: For a request that cannot be meant.
        GradlabError: When something cannot be read or run.
    """
    stopwatch, request = Stopwatch(), ResponsesRequest.of(locals())
    where = pick_device(device)
    results: list[ResponsesResult] = []
    for label, (model,), normalization in networks(request):
        chosen = paper_layers(model) if layers is None else layers
        if no_data:
            results.append(_predicted(model, label, chosen))
            continue
        stream, mode = images_of(request, model, where, normalization), batch_norm_mode(bn, model)
        results.append(_measured(model, label, stream, mode, chosen, exact, normalization, progress))
    result = ResponsesResult.concat(results)
    if not result.frame["shortcut"].any():
        result.frame = result.frame.drop(columns="shortcut")
    if same_recipe:
        _join_unknown_recipes(result.record["networks"])
    options = request.options() | ({"data": None} if no_data else {})
    result.record = make_record(
        "responses", options=options, device=device_name(where), stopwatch=stopwatch, **result.record
    )
    return result


def _join_unknown_recipes(networks: Sequence[dict[str, Any]]) -> None:
    """Take weights of which nothing is known to be of the one recipe that is, or of one where none or several are."""
    known = {facts["recipe"] for facts in networks} - {None}
    same = known.pop() if len(known) == 1 else "taken to be the same"
    for facts in networks:
        facts["recipe"] = facts["recipe"] or same


def _measured(
    model: nn.Module,
    label: str,
    stream: Batches,
    mode: BatchNormMode,
    layers: Selection,
    exact: bool,
    normalize: str | None,
    progress: Progress | None,
) -> ResponsesResult:
    clone = runner(model, mode).to(stream.device)
    correct = loss = torch.zeros((), dtype=torch.float64, device=stream.device)
    comparable, done, finite = False, 0, True
    statistics = batch_statistics(clone) if mode == "batch" else nullcontext()
    # Not inference mode: its tensors do not tell whether something changed them in place.
    with torch.no_grad(), statistics, ResponseStd(clone, layers, exact=exact) as probe:
        for images, labels in stream:
            if mode == "eval" and images.ndim == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            logits = forward(clone, label, images)
            done += len(images)
            finite = finite and bool(images.isfinite().all())
            comparable = labels is not None and _same_classes(logits, labels, stream)
            if labels is not None and comparable:
                correct = correct + right_answers(logits, labels).sum()
                loss = loss + cross_entropies(logits, labels).sum()
            if progress is not None:
                progress(label, done, stream.count)
    result = probe.result(label)
    if is_foldable(model) and mode == "eval":
        # Folded batch normalization can no longer tell the probe.
        result.frame["predicted_std"] = result.frame["layer"].map(predicted_response_std(model, layers))
    accuracy = correct.item() / stream.count if comparable else None
    classes = logits.shape[-1] if comparable else 0
    facts = {**result.facts(label), **network_facts(model, label)} | {
        "bn": mode if has_batch_norm(model) else "none",
        "data": stream.dataset.name,
        "images": stream.count,
        "normalization": None if stream.normalization is None else str(stream.normalization),
        "accuracy": accuracy,
        "loss": loss.item() / stream.count if comparable else None,
        # Of images that hold NaN the answers say nothing of the weights.
        "near_chance": accuracy is not None
        and finite
        and is_trained(model)
        and near_chance(accuracy, classes, stream.count),
    }
    result.record["networks"] = [facts]
    result.notes += _warnings(model, label, facts, stream, normalize)
    return result


def _predicted(model: nn.Module, label: str, layers: Selection) -> ResponsesResult:
    predicted, targets = predicted_response_std(model, layers), response_targets(model, layers).chosen
    rows = [response_row(layer, index, targets[layer], std) for index, (layer, std) in enumerate(predicted.items(), 1)]
    notes = []
    if not is_trained(model):
        notes.append(f"{label}: running statistics are still 0 and 1, so the prediction says nothing of eval mode")
    elif all(std != std for std in predicted.values()):
        notes.append(f"{label}: no batch normalization follows any layer, so nothing can be predicted without data")
    return ResponsesResult.from_rows(label, rows, notes, network_facts(model, label) | {"bn": "running"})


def _same_classes(logits: Tensor, labels: Tensor, stream: Batches) -> bool:
    """Whether outputs and labels number the same classes; a file of arrays does not say how many it has."""
    classes = stream.dataset.classes
    return logits.shape[:-1] == labels.shape and (
        logits.shape[-1] == classes if classes else bool(logits.shape[-1] > 1)
    )


def _warnings(model: nn.Module, label: str, facts: dict[str, Any], stream: Batches, normalize: str | None) -> list[str]:
    notes = assumptions(model, label, facts["normalization"], normalize)
    if facts["near_chance"]:
        notes.append(
            f"{label}: {facts['accuracy']:.1%} of the images are classified rightly, near chance: these weights are "
            "probably not what their name says (a plain net under a residual name, or the reverse), or the "
            "normalization is not theirs; nothing is concluded from them"
        )
    return notes
