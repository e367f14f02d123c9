"""Measure the activity of the rectifiers of random nets along a line of inputs, for `gradlab activations`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gradlab.experiments.activations.request import FAMILIES, ActivationsRequest
from gradlab.experiments.device import device_name
from gradlab.experiments.request import Dtype, Progress
from gradlab.experiments.shatter.request import Init
from gradlab.experiments.shatter.rows import INFINITE_UP_TO
from gradlab.experiments.shatter.run import require_in_range
from gradlab.experiments.shatter.shatter import float64_device, one_thread
from gradlab.experiments.spreading import ranks, spread
from gradlab.models import Family, activation_patterns, parse_family
from gradlab.results.activations.result import ActivationsResult
from gradlab.results.record import Stopwatch, make_record
from gradlab.stats import activation_statistics
from gradlab.stats.activation_runs import run_lengths, switch_rate
from gradlab.theory import coin_flip_runs, switch_rates

STATISTICS = ("activation", "coactivation", "constant", "switch_rate")
"""The columns of what is measured of each layer."""


def activations(
    depth: int = 50,
    families: Sequence[str] | str = FAMILIES,
    *,
    seeds: int = 20,
    width: int = 200,
    points: int = 256,
    interval: tuple[float, float] = (-2.0, 2.0),
    init: Init = "he",
    dtype: Dtype = "float32",
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> ActivationsResult:
    """Measure which rectifiers of random nets are active along a line of inputs (Balduzzi et al. 2017, Fig. 4).

    For every layer: the fraction of neighbouring inputs at which a neuron switches, beside infinite width if there is
    such a limit, and activation and co-activation. For the last layer: the activity of every neuron at every input, and
    the lengths of the runs of neighbouring inputs at which it is active, beside coin flips. Gradients shatter where
    neurons switch often: their activity is then dispersed like that of coins.

    Args:
        depth: The number of ReLU layers or residual blocks.
        families: The families, as in `gl.models.parse_family`.
        seeds: The number of nets of each family.
        width: The number of neurons per layer.
        points: The number of evenly spaced inputs.
        interval: The first and the last input.
        init: The initialization of the hidden weights: `he`, `glorot` or `orthogonal`.
        dtype: The dtype of the networks: `float32` or `float64`. Statistics are float64 in any case.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        seed: The seed of the first net; the others have the seeds that follow.
        progress: A function called after every net.

    Raises:
        UsageError: If the arguments are invalid.
    """
    stopwatch, request = Stopwatch(), ActivationsRequest.of(locals())
    parsed = [parse_family(text) for text in request.listed_families()]
    where = float64_device(device)
    x = torch.linspace(*interval, points, dtype=torch.float64)
    done = dict.fromkeys((family.name for family in parsed), 0)

    def measure(task: tuple[Family, int]) -> _Net:
        family, number = task
        net = _measured(family.at(depth), number, x, request, where)
        done[family.name] += 1
        if progress is not None and ranks() == 1:
            progress(family.name, done[family.name], seeds)
        return net

    with one_thread():
        tasks = [(family, number) for family in parsed for number in range(seeds)]
        nets = spread(tasks, measure, progress=progress, label="nets")
        of_family = {family: nets[place * seeds : (place + 1) * seeds] for place, family in enumerate(parsed)}
        frame = pd.concat([_layers(family, own, x, request) for family, own in of_family.items()], ignore_index=True)
        runs = pd.concat([_runs(family, own) for family, own in of_family.items()], ignore_index=True)
    facts = [{"network": family.name, "description": family.description.to_dict()} for family in parsed]
    return ActivationsResult(
        frame.astype({"theory": float}),
        make_record(
            "activations", options=request.options(), device=device_name(where), stopwatch=stopwatch, networks=facts
        ),
        runs_frame=runs,
        rasters={family.name: own[0].raster.numpy() for family, own in of_family.items()},
        x=x.numpy(),
    )


@dataclass(frozen=True)
class _Net:
    """What is measured of one net, on the CPU.

    Attributes:
        layers: The statistics of each layer in the order of `STATISTICS`, float64 of shape (L, 4).
        runs: The mean number of runs of each length in the last layer, float64 of shape (M,).
        raster: The activity of the last layer, boolean of shape (N, M); empty for all seeds but the first.
    """

    layers: Tensor
    runs: Tensor
    raster: Tensor


def _measured(family: Family, number: int, x: Tensor, request: ActivationsRequest, device: torch.device) -> _Net:
    """Run the net of one seed.

    Raises:
        GradlabError: If its states leave the range of the dtype.
    """
    last, layers, seed, dtype = torch.empty(0), [], request.seed + number, getattr(torch, request.dtype)
    options: dict[str, Any] = {"width": request.width, "init": request.init, "dtype": dtype, "device": device}
    for last, in_range in activation_patterns(family, x, seed, request.depth, **options):
        found = activation_statistics(last.sum(1), last.shape[1])
        constant = found.always_on + found.always_off
        values = [found.activation, found.coactivation, constant, switch_rate(last)]
        layers.append(torch.stack([*values, in_range.to(constant)]))
    here, table = last.cpu(), torch.stack(layers).cpu()
    require_in_range(family, [seed], table[:, -1].bool().all()[None], dtype)
    return _Net(table[:, :-1], run_lengths(here), here if number == 0 else here[:0])


def _layers(family: Family, nets: Sequence[_Net], x: Tensor, request: ActivationsRequest) -> pd.DataFrame:
    """The rows of a family: one per seed and layer."""
    resolved = family.at(request.depth)
    theory = _theory(resolved, x, request)
    frames = [
        pd.DataFrame(net.layers.numpy(), columns=STATISTICS).assign(seed=request.seed + number, theory=theory)
        for number, net in enumerate(nets)
    ]
    key = {"network": family.name, "norm": resolved.norm}
    layers = [*range(1, request.depth + 1)] * len(nets)
    joined = pd.concat(frames, ignore_index=True).assign(**key, layer=layers)
    return joined[["network", "norm", "seed", "layer", *STATISTICS, "theory"]]


def _runs(family: Family, nets: Sequence[_Net]) -> pd.DataFrame:
    """The runs of a family by their length, averaged over seeds."""
    mean = torch.stack([net.runs for net in nets]).mean(0)
    points = len(mean)
    columns = {"length": range(1, points + 1), "runs": mean, "coin_flips": coin_flip_runs(points)}
    return pd.DataFrame({"network": family.name, **columns})


def _theory(family: Family, x: Tensor, request: ActivationsRequest) -> list[float | None]:
    """The switch rates at infinite width, where the family has that limit on a line and its width is near it."""
    if family.norm not in ("none", "center") or family.kind == "ll" or request.init == "glorot":
        return [None] * request.depth
    residual = (family.shortcut, family.beta) if family.kind == "resnet" else None
    centred = family.norm == "center"
    rates = switch_rates(x, request.depth, centred=centred, residual=residual, bias=family.bias).tolist()
    return [rate if layer <= INFINITE_UP_TO * request.width else None for layer, rate in enumerate(rates, 1)]
