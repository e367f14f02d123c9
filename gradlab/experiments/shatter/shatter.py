"""Measure the loss of correlation of gradients with depth, for `gradlab shatter --depths …`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from gradlab.errors import UsageError
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.request import Dtype, NormGrad, Progress
from gradlab.experiments.shatter.parts import shared_runs
from gradlab.experiments.shatter.request import FAMILIES, Init, ShatterRequest
from gradlab.experiments.shatter.rows import Row, acf_rows, acf_theory, decay_rows, layer_rows, summary_rows
from gradlab.experiments.shatter.run import FamilyRun, Settings, run_family
from gradlab.experiments.spreading import ranks
from gradlab.models import Family, parse_family
from gradlab.models.mlp import CENTER_UP_TO
from gradlab.results.record import Stopwatch, make_record
from gradlab.results.shatter.result import ShatterResult
from gradlab.stats.float32 import full_float32
from gradlab.theory import brown_noise_acf, white_noise_acf


@full_float32()
def shatter(
    depths: Sequence[int] | int = (8, 32, 128),
    families: Sequence[str] | str = FAMILIES,
    *,
    seeds: int = 20,
    lags: int = 20,
    width: int = 200,
    points: int = 256,
    interval: tuple[float, float] = (-2.0, 2.0),
    norm_grad: NormGrad = "frozen",
    init: Init = "he",
    dtype: Dtype = "float32",
    device: str = "auto",
    seed: int = 0,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> ShatterResult:
    """Measure autocorrelation of gradients of random fully connected nets on a line (Balduzzi et al. 2017, Fig. 2).

    The result also has the correlation at a fixed pair of inputs, sampled and by counting co-active paths, activation
    and co-activation, and exact theory if there is any. The numbers of a family do not depend on other families, nor on
    the other depths or seeds, and on a CPU the same call gives the same bytes with any number of threads.

    Args:
        depths: The depths, as numbers of ReLU layers or residual blocks.
        families: The families, as in `gl.models.parse_family`: `ff`, `ff-norm=none`, `resnet-beta=0.1`, `ll`.
        seeds: The number of nets of each family.
        lags: The largest lag.
        width: The number of neurons per layer.
        points: The number of evenly spaced inputs.
        interval: The first and the last input.
        norm_grad: Whether the gradient passes through the statistics of normalization (`full`) or not (`frozen`).
        init: The initialization of the hidden weights: `he`, `glorot` or `orthogonal`.
        dtype: The dtype of the networks: `float32` or `float64`. Statistics are float64 in any case.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        seed: The seed of the first net; the others have the seeds that follow.
        keep: A folder in which nets that are done are kept, so that the same call goes on after a failure.
        progress: A function called after every net.

    Raises:
        UsageError: If the arguments are invalid or inconsistent.
        GradlabError: If a gradient is not finite.
    """
    stopwatch, request = Stopwatch(), ShatterRequest.of(locals())
    parsed = [parse_family(text) for text in request.listed_families()]
    _check_bias(parsed, points, interval)
    where = float64_device(device)
    with one_thread() as threads:
        settings = Settings(
            x=torch.linspace(*interval, points, dtype=torch.float64),
            seeds=list(range(seed, seed + seeds)),
            width=width,
            norm_grad=norm_grad,
            init=init,
            dtype=getattr(torch, dtype),
            device=where,
            workers=threads,
        )
        result = _measured(parsed, request.listed_depths(), settings, lags, keep, progress)
        noise = noise_acfs(points, lags)
    first, second = settings.pair
    facts = {
        "networks": [{"network": family.name, "description": family.description.to_dict()} for family in parsed],
        "seeds": settings.seeds,
        "pair": [settings.x[first].item(), settings.x[second].item()],
        "noise": noise,
    }
    result.record = make_record(
        "shatter", options=request.options(), device=device_name(where), stopwatch=stopwatch, **facts
    )
    return result


def _measured(
    families: list[Family],
    depths: list[int],
    settings: Settings,
    lags: int,
    keep: Path | None,
    progress: Progress | None,
) -> ShatterResult:
    """The rows of all families, without the record."""
    frames: dict[str, list[Row]] = {"acf": [], "summary": [], "layers": []}
    gradients = {}
    for family, run in _runs(families, depths, settings, keep, progress):
        key = {"network": family.name, "norm": run.family.norm}
        for depth, signals in run.gradients.items():
            theory = acf_theory(run.family, depth, settings, lags)
            frames["acf"] += acf_rows(signals, lags, theory, **key, depth=depth)
            frames["summary"] += summary_rows(run, settings, theory, **key, depth=depth)
            gradients[family.name, depth] = signals.numpy()
        deepest = max(run.gradients)
        frames["summary"] += decay_rows(run, settings, **key, depth=deepest)
        frames["layers"] += layer_rows(run, settings, **key, depth=deepest)
    return ShatterResult(
        pd.DataFrame(frames["acf"]),
        notes=_notes(families, depths, settings),
        summary_frame=pd.DataFrame(frames["summary"]),
        layers_frame=pd.DataFrame(frames["layers"]),
        gradients=gradients,
        x=settings.x.numpy(),
    )


@contextmanager
def one_thread() -> Iterator[int]:
    """Run every operation on one thread, so that sums are bitwise equal for any number of threads.

    Products of this size gain little from several threads, unlike several seeds at a time.

    Yields:
        The number of threads available.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def noise_acfs(points: int, lags: int) -> dict[str, list[float]]:
    """The expected autocorrelations of brown and white noise."""
    return {
        "brown": brown_noise_acf(points, lags).tolist(),
        "white": white_noise_acf(points, lags).tolist(),
    }


def _runs(
    families: list[Family], depths: list[int], settings: Settings, keep: Path | None, progress: Progress | None
) -> Iterator[tuple[Family, FamilyRun]]:
    """The runs of all families, one for each norm that a family has at these depths."""
    jobs: list[tuple[Family, Family, list[int]]] = []
    for family in families:
        by_norm: dict[Family, list[int]] = {}
        for depth in depths:
            by_norm.setdefault(family.at(depth), []).append(depth)
        jobs += [(family, resolved, group) for resolved, group in by_norm.items()]
    if ranks() > 1 or keep is not None:
        shared = shared_runs([(resolved, group) for _, resolved, group in jobs], settings, keep, progress)
        yield from zip((family for family, _, _ in jobs), shared, strict=True)
        return
    for family, resolved, group in jobs:
        several = sum(other is family for other, _, _ in jobs) > 1
        label = f"{family.name} ({resolved.norm})" if several else family.name
        report = None if progress is None else partial(_report, progress, label, len(settings.seeds))
        yield family, run_family(resolved, group, settings, report)


def _report(progress: Progress, label: str, total: int, done: int) -> None:
    progress(label, done, total)


def float64_device(name: str) -> torch.device:
    """The device as in `pick_device`, but never mps, which has no float64."""
    device = pick_device(name)
    if device.type != "mps":
        return device
    if name != "auto":
        raise UsageError("the statistics are float64, which mps does not have: use cpu")
    return torch.device("cpu")


def _check_bias(families: list[Family], points: int, interval: tuple[float, float]) -> None:
    """Refuse nets without biases on a line that contains the input 0."""
    unbiased = next((family for family in families if not family.bias), None)
    if unbiased and points % 2 and interval[0] == -interval[1]:
        raise UsageError(
            f"{unbiased.name}: {points} points have x = 0 among them, where every neuron of a net without bias "
            "switches and there is no gradient: take an even number of points"
        )


def _notes(families: list[Family], depths: list[int], settings: Settings) -> list[str]:
    notes = []
    if len(settings.seeds) == 1:
        notes.append("One seed: there is no error bar.")
    if settings.norm_grad == "full":
        notes.append(
            "Gradients pass through the statistics of normalization (full): correlation is much lower than with "
            "frozen statistics, of which the theorems speak."
        )
    for family in families:
        resolved = [family.at(depth) for depth in depths]
        if family.kind == "ff" and len({net.norm for net in resolved}) > 1:
            notes.append(f"{family.name}: centred up to depth {CENTER_UP_TO}, batch-normalized above.")
        if family.norm == "center" and depths[-1] > CENTER_UP_TO:
            notes.append(
                f"{family.name}: above depth {CENTER_UP_TO} one input may dominate; ff-norm=bn does not suffer that."
            )
        chaotic = any(net.kind == "ff" and net.norm == "bn" for net in resolved) and depths[-1] > CENTER_UP_TO
        if chaotic and settings.dtype == torch.float32:
            notes.append(
                f"{family.name}: batch-normalized nets deeper than {CENTER_UP_TO} are chaotic in float32: their "
                "statistics are reproducible elsewhere, the single signals are not."
            )
    return notes
