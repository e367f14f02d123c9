"""Measure the attention of named networks by head and layer, for `gradlab attention`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn

from gradlab.data.batching import Batches
from gradlab.experiments.attention.request import AttentionRequest
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.request import BatchNormMode, Progress
from gradlab.experiments.spreading import ranks, share
from gradlab.experiments.subject import (
    assumptions,
    batch_norm_mode,
    copy_of,
    each_network,
    forward,
    has_batch_norm,
    images_of,
    network_facts,
    seen_by_probe,
)
from gradlab.models import batch_statistics
from gradlab.probes import AttentionStatistics
from gradlab.results.attention.result import AttentionResult
from gradlab.results.record import Stopwatch, make_record
from gradlab.stats.float32 import full_float32
from gradlab.transfer import placed


@full_float32()
def attention(
    models: Sequence[str | nn.Module] | str | nn.Module,
    data: str = "cifar10-sample",
    *,
    weights: str | None = None,
    images: int | None = 64,
    batch_size: int = 16,
    device: str = "auto",
    seed: int = 0,
    bn: BatchNormMode | None = None,
    normalize: str | Sequence[str] | None = None,
    rows: int | None = 64,
    progress: Progress | None = None,
) -> AttentionResult:
    """Measure entropy and largest logit of attention by head and layer (see `gl.AttentionStatistics`).

    Args:
        models: The networks, as specifications for `gl.build` or as modules.
        data: A named data set (see `gl.batches`).
        weights: The weights of networks whose specifications name none.
        images: The number of images or sequences to take from the beginning of the data set; None takes all.
        batch_size: The number of images per batch.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: The seed of initial weights and of noise.
        bn: The statistics for batch normalization: `eval` uses running statistics (the default for trained weights),
            `batch` those of each batch (the default for initial weights); no buffer changes in either case.
        normalize: The normalization of the images, one for all networks or one for each; by default the normalization
            with which each network was trained, or else that of the data set.
        rows: The number of evenly spaced rows to take from each attention; None takes all.
        progress: A function called after every batch.

    Raises:
        UsageError: If the arguments are invalid or inconsistent.
        GradlabError: If something cannot be read or run, or a network has no attention.
    """
    stopwatch, request = Stopwatch(), AttentionRequest.of(locals())
    where = pick_device(device)

    def measure(label: str, variants: Sequence[nn.Module], normalization: str | None) -> AttentionResult:
        (model,) = variants
        stream, mode = images_of(request, model, where, normalization), batch_norm_mode(bn, model)
        measured = _measured(model, label, stream, mode, rows, progress)
        used = None if stream.normalization is None else str(stream.normalization)
        facts = {"bn": mode if has_batch_norm(model) else "none", "data": stream.dataset.name, "images": stream.count}
        facts |= {"normalization": used, "coverage": measured.facts(label)["coverage"]}
        measured.record["networks"] = [network_facts(model, label) | facts]
        measured.notes += assumptions(model, label, stream, normalization)
        return measured

    result = AttentionResult.concat(each_network(request, measure, progress=progress))
    result.record = make_record(
        "attention", options=request.options(), device=device_name(where), stopwatch=stopwatch, **result.record
    )
    return result


def _measured(
    model: nn.Module, label: str, stream: Batches, mode: BatchNormMode, rows: int | None, progress: Progress | None
) -> AttentionResult:
    """The attention of one network."""
    clone = placed(copy_of(model), stream.device)
    statistics, done = batch_statistics(clone) if mode == "batch" else nullcontext(), 0
    with torch.no_grad(), statistics, AttentionStatistics(clone, rows) as probe:
        for images, _ in share(stream):
            forward(clone, label, images)
            done += len(images)
            if progress is not None:
                progress(label, min(done * ranks(), stream.count), stream.count)
    unseen = (
        "has no attention that can be measured: it is not seen in kernels that no function of torch calls (with "
        "transformers, attn_implementation='sdpa' shows it)"
    )
    with seen_by_probe(label, unseen):
        return probe.result(label)
