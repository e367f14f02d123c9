"""Measure the activity of the rectifiers of random nets along a line of inputs, for `gradlab activations`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gradlab.experiments.activations.request import FAMILIES, ActivationsRequest
from gradlab.experiments.request import Dtype, Progress
from gradlab.experiments.shatter.request import Init
from gradlab.experiments.shatter.rows import INFINITE_UP_TO
from gradlab.experiments.shatter.shatter import one_thread
from gradlab.models import Family, activation_patterns, parse_family
from gradlab.results.activations.result import ActivationsResult
from gradlab.results.record import Stopwatch, make_record
from gradlab.stats import activation_statistics
from gradlab.stats.activation_runs import run_lengths, switch_rate
from gradlab.theory import coin_flip_runs, switch_rates


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
        dtype: The dtype of the networks: `float32` or `float64`.
        seed: The seed of the first net; the others have the seeds that follow.
        progress: A function called after every net.

    Raises:
        UsageError: If the arguments are invalid.
    """
    stopwatch, request = Stopwatch(), ActivationsRequest.of(locals())
    parsed = [parse_family(text) for text in request.listed_families()]
    x = torch.linspace(*interval, points, dtype=torch.float64)
    result = ActivationsResult(pd.DataFrame(), x=x.numpy())
    rows: list[dict[str, Any]] = []
    runs: list[pd.DataFrame] = []
    with one_thread():
        for family in parsed:
            resolved, theory = family.at(depth), _theory(family.at(depth), x, request)
            lengths = torch.zeros(points, dtype=torch.float64)
            for done in range(seeds):
                last = torch.empty(0)
                patterns = activation_patterns(
                    resolved, x, seed + done, depth, width=width, init=init, dtype=getattr(torch, dtype)
                )
                for layer, active in enumerate(patterns, 1):
                    key = {"network": family.name, "norm": resolved.norm, "seed": seed + done, "layer": layer}
                    rows.append({**key, **_statistics(active), "theory": theory[layer - 1]})
                    last = active
                lengths += run_lengths(last) / seeds
                if not done:
                    result.rasters[family.name] = last.numpy()
                if progress is not None:
                    progress(family.name, done + 1, seeds)
            columns = {"length": range(1, points + 1), "runs": lengths, "coin_flips": coin_flip_runs(points)}
            runs.append(pd.DataFrame(columns).assign(network=family.name))
    result.frame = pd.DataFrame(rows).astype({"theory": float})
    result.runs_frame = pd.concat(runs, ignore_index=True)[["network", "length", "runs", "coin_flips"]]
    facts = [{"network": family.name, "description": family.description.to_dict()} for family in parsed]
    result.record = make_record(
        "activations", options=request.options(), device="cpu", stopwatch=stopwatch, networks=facts
    )
    return result


def _statistics(active: Tensor) -> dict[str, float]:
    """The columns of one layer of one net."""
    found = activation_statistics(active.sum(1), active.shape[1])
    return {
        "activation": found.activation.item(),
        "coactivation": found.coactivation.item(),
        "constant": (found.always_on + found.always_off).item(),
        "switch_rate": switch_rate(active).item(),
    }


def _theory(family: Family, x: Tensor, request: ActivationsRequest) -> list[float | None]:
    """The switch rates at infinite width, where the family has that limit on a line and its width is near it."""
    if family.norm not in ("none", "center") or family.kind == "ll" or request.init == "glorot":
        return [None] * request.depth
    residual = (family.shortcut, family.beta) if family.kind == "resnet" else None
    centred = family.norm == "center"
    rates = switch_rates(x, request.depth, centred=centred, residual=residual, bias=family.bias).tolist()
    return [rate if layer <= INFINITE_UP_TO * request.width else None for layer, rate in enumerate(rates, 1)]
