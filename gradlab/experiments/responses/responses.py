"""Measure the layer responses of named networks on a data set, for `gradlab responses`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.data.batching import Batches
from gradlab.errors import UsageError
from gradlab.experiments.accuracy import cross_entropies, fits, near_chance, right_answers, wrong_by_nan
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.request import BatchNormMode, Progress
from gradlab.experiments.responses.crops import CROPS_IN_WORDS, tested_over_crops
from gradlab.experiments.responses.known import KnownResponseStd, fastest_layout, is_known
from gradlab.experiments.responses.request import Crops, ResponsesRequest
from gradlab.experiments.spreading import ranks, share, summed
from gradlab.experiments.subject import (
    assumptions,
    batch_norm_mode,
    each_network,
    forward,
    has_batch_norm,
    images_of,
    is_trained,
    network_facts,
    runner,
    seen_by_probe,
)
from gradlab.models import batch_statistics, is_foldable
from gradlab.probes import ResponseStd, predicted_response_std
from gradlab.probes.coverage import coverage_of
from gradlab.probes.response_rows import response_row
from gradlab.probes.selection import Selection, paper_layers
from gradlab.probes.targets import response_targets
from gradlab.probes.unmeasured import VECTORS
from gradlab.probes.weights import weight_rows
from gradlab.results.coverage import Coverage
from gradlab.results.grouping import counted
from gradlab.results.record import Stopwatch, make_record
from gradlab.results.responses.result import ResponsesResult
from gradlab.stats.float32 import full_float32
from gradlab.stats.precision import widest
from gradlab.transfer import placed


@full_float32()
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
    crops: Crops = "center",
    same_recipe: bool = False,
    progress: Progress | None = None,
) -> ResponsesResult:
    """Measure the standard deviation of layer responses of several networks (He et al. 2015, §4.2, Fig. 7).

    Args:
        models: The networks, as specifications for `gl.build` or as modules.
        data: A named data set (see `gl.batches`).
        weights: The weights of networks whose specifications name none.
        images: The number of images to take from the beginning of the data set; None takes all.
        batch_size: The number of images per batch.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: The seed of initial weights and of noise.
        bn: The statistics for batch normalization: `eval` uses running statistics (the default for trained weights),
            `batch` those of each batch (the default for initial weights); no buffer changes in either case.
        layers: The layers to measure, as in `ResponseStd`, but None takes the layers of the paper's figure: in a
            convolutional network the convolutions without the projections of shortcuts, and in any other every layer.
        normalize: The normalization of the images, one for all networks or one for each; by default the normalization
            with which each network was trained, or else that of the data set.
        exact: Use centred float64 statistics, for responses with a mean far from 0.
        no_data: Predict from the parameters of batch normalization, without images.
        crops: How accuracy and loss are measured: on the `center` of each image, on `ten` crops, or with `scales` on
            whole images at five scales; the last two are for an `imagefolder:PATH` and running statistics.
        same_recipe: Compare networks whose recipes are unknown as if they had the same recipe.
        progress: A function called after every batch.

    Raises:
        UsageError: If the arguments are invalid or inconsistent.
        GradlabError: If something cannot be read or run.
    """
    stopwatch, request = Stopwatch(), ResponsesRequest.of(locals())
    where = pick_device(device)

    def measure(label: str, variants: Sequence[nn.Module], normalization: str | None) -> ResponsesResult:
        (model,) = variants
        chosen = paper_layers(model) if layers is None else layers
        if no_data:
            return _predicted(model, label, chosen)
        stream, mode = images_of(request, model, where, normalization), batch_norm_mode(bn, model)
        measured = _measured(model, label, stream, mode, chosen, exact, normalization, progress)
        if crops != "center":
            _test_over_crops(measured, runner(model, mode), stream, mode, crops)
        return measured

    result = ResponsesResult.concat(each_network(request, measure, progress=progress))
    if not result.frame["shortcut"].any():
        result.frame = result.frame.drop(columns="shortcut")
    if same_recipe:
        _join_unknown_recipes(result.record["networks"])
    options = request.options() | ({"data": None} if no_data else {})
    result.record = make_record(
        "responses", options=options, device=device_name(where), stopwatch=stopwatch, **result.record
    )
    return result


def _test_over_crops(
    result: ResponsesResult, model: nn.Module, stream: Batches, mode: BatchNormMode, crops: Crops
) -> None:
    """Replace the accuracy and the loss of one network by those over several crops of each image."""
    (facts,) = result.record["networks"]
    label = facts["network"]
    if mode == "batch":
        raise UsageError(f"{label}: crops of one image are no batch for its statistics: give bn eval (--bn eval)")
    facts["accuracy"], facts["loss"] = tested_over_crops(placed(model, stream.device), label, stream, crops)
    facts["crops"] = crops
    result.notes.append(f"{label}: the accuracy is that of probabilities averaged over {CROPS_IN_WORDS[crops]}")


def _join_unknown_recipes(networks: Sequence[dict[str, Any]]) -> None:
    """Assign weights of unknown recipe to the only known recipe, or to a common one if none or several are known."""
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
    clone = placed(runner(model, mode), stream.device)
    known = mode == "batch" and not exact and is_known(clone)
    layout = torch.channels_last if mode == "eval" else fastest_layout() if known else torch.contiguous_format
    clone = clone.to(memory_format=layout)
    probe = KnownResponseStd(clone, layers) if known else ResponseStd(clone, layers, exact=exact)
    # Batches of images that are not all finite; right answers, answers that hold NaN, and the loss.
    answers = torch.zeros(4, dtype=widest(stream.device), device=stream.device)
    comparable, done, classes = False, 0, 0
    statistics = batch_statistics(clone) if mode == "batch" and not known else nullcontext()
    # Inference mode is not used, since its tensors do not show whether they were changed in place.
    with torch.no_grad(), statistics, probe:
        for images, labels in share(stream):
            if images.ndim == 4:
                images = images.contiguous(memory_format=layout)
            logits = forward(clone, label, images)
            done += len(images)
            answers[0] += ~images.isfinite().all()
            comparable, classes = labels is not None and _same_classes(logits, labels, stream), logits.shape[-1]
            if labels is not None and comparable:
                found = right_answers(logits, labels), logits.isnan().any(1), cross_entropies(logits, labels)
                answers[1:] += torch.stack([each.sum().to(answers.dtype) for each in found])
            if progress is not None:
                progress(label, min(done * ranks(), stream.count), stream.count)
    with seen_by_probe(label, "does not run the layers to measure: choose others (--layers)"):
        result = probe.result(label)
    measured = result.facts(label)
    if is_foldable(model) and mode == "eval":
        # Folded batch normalization is no longer visible to the probe.
        result.frame["predicted_std"] = result.frame["layer"].map(predicted_response_std(model, layers))
        measured["coverage"] = _unfolded(model, Coverage.from_record(measured["coverage"])).as_record()
    # Of ranks that share the images, one may have had none.
    told = torch.tensor([done > 0, comparable, classes], dtype=torch.float64)
    faulty, correct, without, loss, ran, *every = summed(torch.cat([answers.cpu().double(), told])).tolist()
    comparable, classes = every[0] == ran > 0, int(every[1] / ran) if ran else 0
    accuracy = correct / stream.count if comparable else None
    facts = {**measured, **network_facts(model, label)} | {
        "bn": mode if has_batch_norm(model) else "none",
        "data": stream.dataset.name,
        "images": stream.count,
        "normalization": None if stream.normalization is None else str(stream.normalization),
        "accuracy": accuracy,
        "loss": loss / stream.count if comparable else None,
        # Answers to images that contain NaN give no information on the weights.
        "near_chance": accuracy is not None
        and not faulty
        and is_trained(model)
        and near_chance(accuracy, classes, stream.count),
    }
    result.record["networks"] = [facts]
    result.notes += _warnings(model, label, facts, stream, normalize)
    if count := int(without):
        outputs = f"{count:,} of {counted(stream.count, 'output')}"
        result.notes.append(f"{label}: {wrong_by_nan(outputs, stream.count)}")
    return result


def _unfolded(model: nn.Module, folded: Coverage) -> Coverage:
    """The coverage of a network's own parameters, from that of its copy without batch normalization."""
    weights = weight_rows(model)
    reasons = {name: reason for reason, names in folded.left_out.items() for name in names if name in weights}
    return coverage_of(model, (row for name, row in weights.items() if name not in reasons), reasons, vectors=VECTORS)


def _predicted(model: nn.Module, label: str, layers: Selection) -> ResponsesResult:
    predicted, targets = predicted_response_std(model, layers), response_targets(model, layers).chosen
    rows = [response_row(layer, index, targets[layer], std) for index, (layer, std) in enumerate(predicted.items(), 1)]
    notes = []
    if not is_trained(model):
        notes.append(f"{label}: running statistics are still 0 and 1, so the prediction does not apply to eval mode")
    elif all(std != std for std in predicted.values()):
        notes.append(f"{label}: no batch normalization follows any layer, so nothing can be predicted without data")
    return ResponsesResult.from_rows(label, rows, notes, network_facts(model, label) | {"bn": "running"})


def _same_classes(logits: Tensor, labels: Tensor, stream: Batches) -> bool:
    """Whether outputs and labels have the same classes, whose number a file of arrays does not give."""
    classes = stream.dataset.classes
    same = logits.shape[-1] == classes if classes else logits.shape[-1] > 1
    return same and fits(logits, labels, stream.largest_label)


def _warnings(model: nn.Module, label: str, facts: dict[str, Any], stream: Batches, normalize: str | None) -> list[str]:
    notes = assumptions(model, label, stream, normalize)
    if facts["accuracy"] is None and (largest := stream.largest_label) is not None:
        classes = stream.dataset.classes
        there = f"{classes:,} classes" if classes else f"labels up to {largest:,}"
        notes.append(f"{label}: no accuracy, since {stream.dataset.name} has {there} and the network other outputs")
    if facts["near_chance"]:
        notes.append(
            f"{label}: {facts['accuracy']:.1%} of the images are classified correctly, near chance: these weights are "
            "probably not what their name says (a plain net under a residual name, or the reverse), or the "
            "normalization is not theirs; nothing is concluded from them"
        )
    return notes
