"""The networks of a comparison as initialized: their stream, their gradients and their effective rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from gradlab.data.batching import batches
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.compare.matching import Matched
from gradlab.experiments.compare.request import CompareRequest
from gradlab.experiments.device import pick_device
from gradlab.experiments.gradients.passes import Pass, losses_and_output
from gradlab.experiments.request import Progress
from gradlab.experiments.spreading import ranks, spread
from gradlab.experiments.subject import copy_of, forward, network_facts
from gradlab.models import batch_statistics
from gradlab.networks import build
from gradlab.probes import BlockSignal, InputGradients, ResponseGradients
from gradlab.probes.selection import depth_layers
from gradlab.results.compare.findings import RANK
from gradlab.results.signal.outputs import outputs
from gradlab.stats.float32 import full_float32
from gradlab.stats.precision import widest
from gradlab.stats.verdict import Estimate
from gradlab.transfer import placed

ROUNDING = 1e-3
"""The relative error of a norm in float32 above which a network is measured in float64; seeds differ by a tenth."""


@dataclass(frozen=True)
class _Draw:
    """What is measured of a network with the weights of one seed.

    Attributes:
        stream: The standard deviation of the stream after each block, (blocks,).
        norms: The norm of the loss's gradient with respect to the response of each convolution, (convolutions,).
    """

    stream: np.ndarray
    norms: np.ndarray


@dataclass(frozen=True)
class _Measured:
    """What is measured of a network: its rows, the facts on it, and notes."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    notes: list[str]


@full_float32()
def at_initialization(
    networks: Sequence[Matched], request: CompareRequest, progress: Progress | None
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]], list[str]]:
    """Measure networks over seeds, each with the statistics of one batch of images.

    Args:
        networks: The networks; ranks measure different ones.
        request: The data, the number of images and the seeds.
        progress: A function called after every set of weights.

    Returns:
        The rows of all networks, the facts on each by its name, and notes.

    Raises:
        UsageError: If the data has fewer images, or no labels that fit.
        GradlabError: If input gradients are 0 or not finite.
    """

    def measure(one: Matched) -> _Measured:
        return _measured(one.name, request, progress if ranks() == 1 else None)

    found = spread(networks, measure, cost=lambda one: one.cost.multiply_adds, progress=progress, label="networks")
    frame = pd.DataFrame([row for one in found for row in one.rows])
    return frame, {one.facts["network"]: one.facts for one in found}, [note for one in found for note in one.notes]


def _measured(name: str, request: CompareRequest, progress: Progress | None) -> _Measured:
    """Measure a network over all seeds, in the dtype that the gradients of the first need."""
    passes = [_pass(name, request, request.seed + place) for place in range(request.seeds)]
    stream = passes[0].stream
    first, dtype, notes = _resolved(name, passes[0])
    draws, effective_ranks = [first], []
    for place, one in enumerate(passes):
        if place:
            draws.append(_drawn(one, dtype))
        effective_ranks.append(_effective_rank(one, dtype))
        if progress is not None:
            progress(name, place + 1, len(passes))
    normalization = stream.normalization
    facts = network_facts(passes[0].model, name) | {
        "digests": [one.model.network.digest for one in passes],  # type: ignore[union-attr]
        "bn": "batch",
        "data": stream.dataset.name,
        "images": stream.count,
        "normalization": None if normalization is None else str(normalization),
    }
    norms = np.stack([one.norms for one in draws])
    rows = [
        *_curve("stream_std", np.stack([one.stream for one in draws])),
        *_curve("gradient_norm", norms),
        {**_row("gradient_log_ratio"), **_mean(np.log(norms[:, 0] / norms[:, -1]))},
        {**_row(RANK), **_mean(effective_ranks)},
    ]
    return _Measured([{"network": name, **one} for one in rows], facts, notes)


def _resolved(name: str, part: Pass) -> tuple[_Draw, torch.dtype, list[str]]:
    """Measure a pass in float32 if that resolves its gradients, else in float64, and note what was found."""
    single, wide = _drawn(part, torch.float32), widest(part.stream.device)
    if wide is torch.float32:
        missing = f"{part.stream.device.type} has no float64"
        return single, wide, [f"{name}: {missing}, so that the rounding of norms of gradients in float32 is not known"]
    double = _drawn(part, wide)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = float(np.abs(single.norms / double.norms - 1).max())
    if error <= ROUNDING:
        return single, torch.float32, []
    off = f"off by up to {error:.2%}" if np.isfinite(error) else "not finite or 0"
    return double, wide, [f"{name}: norms of gradients in float32 are {off}: measured in float64"]


def _pass(name: str, request: CompareRequest, seed: int) -> Pass:
    """A network with the weights of one seed, and the batch on which it is measured."""
    model, device = build(name, "init", seed=seed), pick_device(request.device)
    stream = batches(request.data, request.images, model, device=device, images=request.images, seed=request.seed)
    if stream.largest_label is None:
        raise UsageError(f"{request.data} has no labels, and gradients of the loss are compared: give other --data")
    return Pass(model, name, stream, "batch", "cross-entropy", None, per_example=False)


def _drawn(part: Pass, dtype: torch.dtype) -> _Draw:
    """Measure stream and gradients in one pass."""
    # Gradients of weights are not asked for, and would take half as long again.
    model = placed(copy_of(part.model), part.stream.device, dtype).requires_grad_(False)
    images, labels = next(part.batches(dtype))
    signal, gradients = BlockSignal(model), ResponseGradients(model, depth_layers(model))
    with batch_statistics(model), signal, gradients:
        losses, _ = losses_and_output(part, model, images.requires_grad_(), labels)
        losses.mean().backward()
    layers = gradients.result(part.label).frame
    # Every network has convolutions, in order of execution.
    convolutions = layers[~layers["block"] & layers["kind"].str.startswith("conv")]
    stream = outputs(signal.result(part.label).frame)["stream_total_std"]
    return _Draw(stream.to_numpy(float), convolutions["response_grad_norm"].to_numpy(float))


def _effective_rank(part: Pass, dtype: torch.dtype) -> float:
    """Measure the effective rank of the gradients of the summed logits with respect to the images."""
    model = placed(copy_of(part.model), part.stream.device, dtype)
    images, _ = next(part.batches(dtype))
    with torch.no_grad(), batch_statistics(model), InputGradients(model) as probe:
        forward(model, part.label, images)
    if not probe.samples or probe.left_out:
        raise GradlabError(f"{part.label}: {probe.left_out} input gradients are 0 or not finite")
    return probe.samples[0][RANK]


def _curve(statistic: str, values: np.ndarray) -> list[dict[str, Any]]:
    """A row per layer, whose place is its relative depth from 0 to 1, from the values of all seeds, (seeds, layers)."""
    places = np.linspace(0, 1, values.shape[1])
    return [{**_row(statistic, place), **_mean(own)} for place, own in zip(places, values.T, strict=True)]


def _row(statistic: str, place: float = np.nan) -> dict[str, Any]:
    """The beginning of a row: what is measured, and where."""
    return {"statistic": statistic, "place": place}


def _mean(values: np.ndarray | Sequence[float]) -> dict[str, Any]:
    """The mean over seeds with its standard error, and their number."""
    estimate = Estimate.of(values)
    return {"value": estimate.value, "sem": estimate.error, "seeds": estimate.samples}
