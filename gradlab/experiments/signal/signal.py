"""Measure the signal of named networks block by block, for `gradlab signal`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.gradients.passes import Pass, losses_and_output
from gradlab.experiments.request import BatchNormMode, Progress
from gradlab.experiments.signal.request import LossName, SignalRequest
from gradlab.experiments.signal.theory import predicted_stream_std
from gradlab.experiments.spreading import spread
from gradlab.experiments.subject import (
    assumptions,
    batch_norm_mode,
    copy_of,
    each_network,
    has_batch_norm,
    images_of,
    network_facts,
    of_incomplete_batch,
    seen_by_probe,
)
from gradlab.models import batch_statistics
from gradlab.probes import BlockSignal
from gradlab.results.record import Stopwatch, make_record
from gradlab.results.signal.result import SignalResult
from gradlab.stats.float32 import full_float32
from gradlab.transfer import placed

_NO_BLOCK = (
    "has no block that is seen: a block is an addition of a signal and a function of it (a concatenation, as in "
    "DenseNet, is none), or one of the like parts of an nn.Sequential or nn.ModuleList"
)


@full_float32()
def signal(
    models: Sequence[str | nn.Module] | str | nn.Module,
    data: str = "cifar10-sample",
    *,
    weights: str | None = None,
    images: int | None = 32,
    batch_size: int = 32,
    device: str = "auto",
    seed: int = 0,
    seeds: int = 1,
    loss: LossName = "cross-entropy",
    bn: BatchNormMode | None = None,
    normalize: str | Sequence[str] | None = None,
    tokens: bool = False,
    exact: bool = False,
    progress: Progress | None = None,
) -> SignalResult:
    """Measure stream, branches and their gradients block by block (Brock et al. 2021; see `gl.BlockSignal`).

    The loss is the mean over a batch, and gradients are pooled over batches. With running statistics (`bn` eval) the
    loss is the mean over all images and does not depend on the batches. With statistics of each batch (`bn` batch), a
    last batch that is not full is left out.

    Args:
        models: The networks, as specifications for `gl.build` or as modules.
        data: A named data set (see `gl.batches`).
        weights: The weights of networks whose specifications name none.
        images: The number of images or sequences to take from the beginning of the data set; None takes all.
        batch_size: The number of images per batch, at most the number of images.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        seed: The first seed of initial weights, and the seed of noise.
        seeds: The number of initializations to measure of a network given as `NAME@init`; all others are measured once.
        loss: The loss: `cross-entropy`, or `sum`, the sum of the outputs averaged over images, for data without labels.
        bn: The statistics for batch normalization: `eval` uses running statistics (the default for trained weights),
            `batch` those of each batch (the default for initial weights); no buffer changes in either case.
        normalize: The normalization of the images, one for all networks or one for each; by default the normalization
            with which each network was trained, or else that of the data set.
        tokens: Also measure token_rank and token_cosine, the similarity of tokens after every block.
        exact: Use centred float64 statistics, for channels with a mean far from 0.
        progress: A function called after every batch.

    Raises:
        UsageError: If the arguments are invalid or inconsistent.
        GradlabError: If something cannot be read or run, or a network has no blocks.
    """
    stopwatch, request = Stopwatch(), SignalRequest.of(locals())
    where = pick_device(device)

    def measure(label: str, variants: Sequence[nn.Module], normalization: str | None) -> SignalResult:
        stream = images_of(request, variants[0], where, normalization)
        stream = replace(stream, batch_size=min(stream.batch_size, stream.count))
        mode = batch_norm_mode(bn, variants[0])
        passes = [Pass(model, label, stream, mode, loss, None, per_example=False) for model in variants]

        def measure_one(place: int) -> SignalResult:
            part = passes[place]
            count = None if progress is None else _counter(progress, label, place, len(variants), part.images)
            measured = _measured(part, tokens, exact, count)
            measured.frame["seed"] = seed + place if len(variants) > 1 else None
            return measured

        parts = spread(range(len(passes)), measure_one, progress=progress, label=f"{label}, seeds")
        part, result = passes[-1], SignalResult.concat(parts)
        result.notes = list(dict.fromkeys(result.notes)) + assumptions(variants[0], label, stream, normalization)
        result.notes += of_incomplete_batch(label, stream.count, part.images)
        result.record = {"networks": [_facts(part) | parts[0].facts(label)]}
        return result

    result = SignalResult.concat(each_network(request, measure, seeds=seeds, progress=progress))
    result.frame["seed"] = result.frame["seed"].astype("Int64")
    result.record = make_record(
        "signal", options=request.options(), device=device_name(where), stopwatch=stopwatch, **result.record
    )
    return result


def _counter(progress: Progress, label: str, place: int, variants: int, images: int) -> Callable[[int], None]:
    """A function that reports progress in images for one of several sets of weights."""
    return lambda done: progress(label, place * images + done, variants * images)


def _measured(part: Pass, tokens: bool, exact: bool, count: Callable[[int], None] | None) -> SignalResult:
    """The signal of one network with one set of weights."""
    model = placed(copy_of(part.model), part.stream.device)
    statistics = batch_statistics(model) if part.bn == "batch" else nullcontext()
    predicted: list[float] = []
    done = 0
    with statistics:
        with BlockSignal(model, exact=exact, tokens=tokens) as probe:
            for images, labels in part.batches(torch.float32):
                each, _ = losses_and_output(part, model, images, labels)
                value = each.mean() if part.bn == "batch" else each.sum() / part.images
                if value.requires_grad:
                    value.backward()
                done += len(images)
                if count is not None:
                    count(done)
        predicted = predicted_stream_std(model, part.bn, images)
    with seen_by_probe(part.label, _NO_BLOCK):
        result = probe.result(part.label)
    last = ~result.frame.duplicated("index", keep="last")
    if len(predicted) == last.sum():
        result.frame.loc[last, "theory"] = predicted
    return result


def _facts(part: Pass) -> dict[str, Any]:
    """The facts on a network for the record."""
    normalization = part.stream.normalization
    return network_facts(part.model, part.label) | {
        "bn": part.bn if has_batch_norm(part.model) else "none",
        "data": part.stream.dataset.name,
        "images": part.images,
        "normalization": None if normalization is None else str(normalization),
    }
