"""Gradients on paths by their length, from the sampled paths of a lesion result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradlab.stats import jackknife, standard_error
from gradlab.stats.path_gradients import effective_depth, effective_lengths, gradient_by_length
from gradlab.stats.verdict import Estimate
from gradlab.theory import path_length_distribution


@dataclass(frozen=True)
class EffectivePaths:
    """The paths that carry a network's gradient.

    Attributes:
        modules: The number of residual modules.
        depth: The mean length of a path, weighted by the gradient magnitude on paths of each length.
        shortest: The length below which paths carry less than 2.5 % of the gradient magnitude.
        longest: The length above which they carry at most 2.5 %.
        paths: The fraction of all paths that have these lengths.
        part: The part of the gradient magnitude on them, at least 95 % as lengths are whole numbers.
        decay: The slope of the logarithm of the norm against the length, over the sampled paths.
    """

    modules: int
    depth: Estimate
    shortest: int
    longest: int
    paths: float
    part: float
    decay: Estimate


def by_length(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each path length of a network.

    Args:
        rows: The sampled paths of one network: length, sample and gradient_norm.

    Returns:
        length; paths, the fraction of all paths; gradient_norm, the mean over samples, and its standard error
        gradient_norm_sem; gradient, the part of the total magnitude on paths of this length, and gradient_sem; samples.
    """
    norms = _norms(rows)
    paths = path_length_distribution(norms.shape[1] - 1)
    part, error = jackknife(lambda sampled: gradient_by_length(paths, sampled.mean(0)), norms)
    columns = {
        "length": torch.arange(norms.shape[1]),
        "paths": paths,
        "gradient_norm": norms.mean(0),
        "gradient_norm_sem": standard_error(norms),
        "gradient": part,
        "gradient_sem": error,
    }
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()}).assign(samples=len(norms))


def effective_paths(rows: pd.DataFrame) -> EffectivePaths:
    """Return the effective paths of one network.

    Args:
        rows: Its sampled paths: length, sample and gradient_norm.
    """
    norms = _norms(rows)
    paths = path_length_distribution(norms.shape[1] - 1)
    depth, error = jackknife(lambda sampled: effective_depth(gradient_by_length(paths, sampled.mean(0))), norms)
    parts = gradient_by_length(paths, norms.mean(0))
    shortest, longest = effective_lengths(parts)
    return EffectivePaths(
        modules=len(paths) - 1,
        depth=Estimate.mean(float(depth), float(error), len(norms)),
        shortest=shortest,
        longest=longest,
        paths=float(paths[shortest : longest + 1].sum()),
        part=float(parts[shortest : longest + 1].sum()),
        decay=Estimate.of([_slope(sampled) for sampled in norms.numpy()]),
    )


def _norms(rows: pd.DataFrame) -> Tensor:
    """The norms by sample and length, float64 of shape (samples, n + 1)."""
    return torch.tensor(rows.pivot(index="sample", columns="length", values="gradient_norm").to_numpy(float))


def _slope(norms: np.ndarray) -> float:
    """The slope of log norms against lengths by least squares, without norms of 0."""
    lengths = np.arange(len(norms))[norms > 0]
    return float(np.polyfit(lengths, np.log(norms[norms > 0]), 1)[0]) if len(lengths) > 1 else float("nan")
