"""The rows of the frames from gradients and activations: statistics, their errors, and theory."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradlab import stats
from gradlab.experiments.shatter.run import FamilyRun, Settings
from gradlab.models import Family
from gradlab.theory import (
    expected_autocorrelation,
    feedforward_gradient_kernel,
    feedforward_law,
    highway_law,
    normalized_highway_law,
    normalized_residual_law,
    paper_asymptote,
)

FIT_FROM = 8
"""The layer at which fits of a decay start, unless an eighth of the depth is deeper."""

INFINITE_UP_TO = 1 / 4
"""The largest depth / width for which measurements are compared with infinite width, whose error is about as large."""

Row = dict[str, Any]


def acf_rows(gradients: Tensor, lags: int, theory: Tensor | None, **key: Any) -> list[Row]:
    """The rows of the autocorrelation, one per lag.

    Args:
        gradients: The gradients, (S, M).
        lags: The largest lag.
        theory: The theoretical autocorrelation, (lags + 1,), or None if there is none.
        **key: The first columns: network, norm, depth.
    """
    acf = stats.autocorrelation(gradients, lags)
    error = stats.standard_error(acf)
    pooled = stats.pooled_autocorrelation(gradients, lags)
    constant = int(stats.is_constant(gradients).sum())
    return [
        {
            **key,
            "lag": lag,
            "acf": acf[:, lag].mean().item(),
            "acf_sem": error[lag].item(),
            "acf_pooled": pooled[lag].item(),
            "n_constant": constant,
            "seeds": len(gradients),
            "theory": math.nan if theory is None else theory[lag].item(),
        }
        for lag in range(lags + 1)
    ]


def signal_rows(gradients: Tensor, theory: Tensor | None, **key: Any) -> list[Row]:
    """The rows of the statistics of gradients alone: lag-1 autocorrelation and half-life."""
    lag1 = stats.autocorrelation(gradients, 1)[:, 1]
    half, half_error = stats.jackknife(lambda acf: stats.half_life(acf.mean(0)), stats.autocorrelation(gradients))
    expected = math.nan if theory is None or len(theory) < 2 else theory[1].item()
    return [
        _row(key, "lag1", lag1.mean(), stats.standard_error(lag1), expected, len(gradients)),
        _row(key, "half_life", half, half_error, math.nan, len(gradients)),
    ]


def summary_rows(run: FamilyRun, settings: Settings, theory: Tensor | None, **key: Any) -> list[Row]:
    """The rows of one family at the depth in the key, one per statistic."""
    depth = key["depth"]
    gradients, seeds = run.gradients[depth], len(settings.seeds)
    row = partial(_row, key, seeds=seeds)
    rows = signal_rows(gradients, theory, **key)
    for name, values in _activation(run, depth)._asdict().items():
        chance = {"activation": 0.5, "coactivation": 0.25}.get(name, 0.0)
        rows.append(row(name, values.mean(), stats.standard_error(values), chance))
    first, second = settings.pair
    sampled, sampled_error = stats.jackknife(
        lambda g: stats.gradient_correlation(g)[0, 1], gradients[:, [first, second]]
    )
    rows.append(row("pair_correlation", sampled, sampled_error, _pair_theory(run.family, depth, settings)))
    # The law is for neurons that are active independently at two inputs, unlike those at a fixed pair.
    exact = 1.0 if run.family.kind == "ll" else math.nan
    rows.append(row("path_correlation", *stats.jackknife(stats.path_correlation, run.end_log_paths[depth]), exact))
    mean = stats.jackknife(stats.path_correlation, run.mean_end_log_paths[depth])
    rows.append(row("mean_path_correlation", *mean, law(run.family, torch.tensor([depth]), settings.x)[0]))
    return rows


def layer_rows(run: FamilyRun, settings: Settings, **key: Any) -> list[Row]:
    """The rows of the layers: active fractions, and the correlation by counting paths through the layers so far.

    The correlation is given for the fixed pair of inputs and for an average pair, to which the law applies.
    """
    log_paths = run.log_paths.transpose(0, 1)
    correlation, error = stats.jackknife(stats.path_correlation, log_paths)
    mean, mean_error = stats.jackknife(stats.path_correlation, run.mean_log_paths.transpose(0, 1))
    layers = torch.arange(1, len(run.log_paths) + 1)
    laws, quoted = law(run.family, layers, settings.x), asymptote(run.family, layers)
    return [
        {
            **key,
            "layer": layer,
            **{name: values[layer - 1].mean().item() for name, values in run.layers._asdict().items()},
            "path_correlation": correlation[layer - 1].item(),
            "path_sem": error[layer - 1].item(),
            "mean_path_correlation": mean[layer - 1].item(),
            "mean_path_sem": mean_error[layer - 1].item(),
            "law": laws[layer - 1].item(),
            "asymptote": quoted[layer - 1].item(),
            "seeds": run.log_paths.shape[1],
        }
        for layer in layers.tolist()
    ]


def decay_rows(run: FamilyRun, settings: Settings, **key: Any) -> list[Row]:
    """The decay of correlation with depth: a power in normalized residual nets, a factor per layer in others.

    `decay_…` is that of an average pair of inputs, layer by layer, with the law for pairs at which neurons are active
    independently; `pair_decay_…` is that of the fixed pair, whose two inputs remain related, without theory.
    """
    depth = len(run.log_paths)
    first = max(FIT_FROM, depth // 8)
    # Without normalization, inputs become more similar with depth, and coin flips do not model their neurons.
    unlike_coins = run.family.kind == "ll" or run.family.norm == "none"
    if depth < 2 * first or unlike_coins:
        return []
    power = run.family.kind == "resnet" and run.family.norm in ("bn", "rms") and run.family.shortcut == 1
    name, fit = ("decay_exponent", stats.power_exponent) if power else ("decay_log_factor", stats.log_rate)
    expected = fit(law(run.family, torch.arange(1, depth + 1), settings.x).log(), first)
    rows = []
    for statistic, counts, exact in ((name, run.mean_log_paths, expected), (f"pair_{name}", run.log_paths, math.nan)):
        value, error = stats.jackknife(
            lambda paths: fit(stats.log_path_correlation(paths), first), counts.transpose(0, 1)
        )
        rows.append(_row(key, statistic, value, error, exact, counts.shape[1]) | {"from_layer": first})
    return rows


def acf_theory(family: Family, depth: int, settings: Settings, lags: int) -> Tensor | None:
    """The exact E[ACF] at infinite width, for nets without norm or with centring only, and for looks-linear nets."""
    if family.kind == "ll":
        return torch.ones(lags + 1, dtype=torch.float64)
    if not _has_kernel(family, depth, settings):
        return None
    return expected_autocorrelation(_kernel(family, depth, settings.x), lags)


def law(family: Family, depth: Tensor, x: Tensor) -> Tensor:
    """The law of independent coin flips for a family; see `gradlab.theory.coin_flip`.

    A residual net starts with the variance of its stem Vx + b, V, b ~ N(0, 1), over the line, which is 4/3 on the line
    of the paper, not 1. If β²L is small compared with it, it determines how fast correlation falls.
    """
    if family.kind == "ll":
        return torch.ones(depth.shape, dtype=torch.float64)
    if family.kind == "ff":
        return feedforward_law(depth)
    if family.norm not in ("bn", "rms"):
        return highway_law(depth, family.shortcut, family.beta)
    centred = family.norm == "bn"
    stem = x.var(correction=0).item() if centred else x.square().mean().item() + family.bias
    if family.shortcut == 1:
        return normalized_residual_law(depth, family.beta, centred=centred, stem=stem)
    return normalized_highway_law(depth, family.shortcut, family.beta, centred=centred, stem=stem)


def asymptote(family: Family, depth: Tensor) -> Tensor:
    """The asymptote 1/(β√L), as quoted in the paper for residual nets with normalization; NaN for others."""
    normalized = family.kind == "resnet" and family.norm in ("bn", "rms") and family.shortcut == 1
    quoted = paper_asymptote(depth, family.beta)
    return quoted if normalized else torch.full_like(quoted, math.nan)


def _has_kernel(family: Family, depth: int, settings: Settings) -> bool:
    """Whether `_kernel` describes these nets; with batch normalization there is no limit on a line."""
    frozen = family.norm == "none" or (family.norm == "center" and settings.norm_grad == "frozen")
    return family.kind == "ff" and frozen and depth <= INFINITE_UP_TO * settings.width


def _kernel(family: Family, depth: int, x: Tensor) -> Tensor:
    return feedforward_gradient_kernel(x, depth, "center" if family.norm == "center" else "none", family.bias)


def _pair_theory(family: Family, depth: int, settings: Settings) -> float:
    if family.kind == "ll":
        return 1.0
    if not _has_kernel(family, depth, settings):
        return math.nan
    kernel = _kernel(family, depth, settings.x)
    first, second = settings.pair
    return (kernel[first, second] / (kernel[first, first] * kernel[second, second]).sqrt()).item()


def _activation(run: FamilyRun, depth: int) -> stats.Activation:
    """The averages over the layers of the net of this depth, (S,)."""
    if not run.ends:
        return stats.Activation(*(values[:depth].mean(0) for values in run.layers))
    before = [stats.Activation(*(values[layer] for values in run.layers)) for layer in range(depth - 1)]
    return stats.mean_activation([*before, run.ends[depth]])


def _row(key: Row, statistic: str, value: Tensor, sem: Tensor, theory: Tensor | float, seeds: int) -> Row:
    return {
        **key,
        "statistic": statistic,
        "value": float(value),
        "sem": float(sem),
        "theory": float(theory),
        "seeds": seeds,
    }
