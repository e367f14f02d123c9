"""The summary of a gradients frame: one row per network, with the first-to-last ratio and the growth per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from gradlab.results.gradients.noise import noise_scale
from gradlab.stats import growth_a_layer, standard_error

ROUNDING = 1e6
"""The relative error of float32 above which the float64 value is rounding noise itself, so that the gradient is 0."""

VECTORS = ("bias", "gain", "parameter")
"""The kinds of rows that are not layers."""


def body_of(layers: pd.DataFrame) -> pd.DataFrame:
    """The layers of one network that are compared across depth.

    They are the 3×3 convolutions if there are any, or else the most common kind of convolution; in nets in which less
    than a quarter of the layers are convolutions, they are the layers of the most common shape. Projections of
    shortcuts are left out.

    Args:
        layers: The rows of one network's layers.
    """
    counted = counted_rows(layers)
    layers = counted if len(counted) else layers
    kinds = layers["kind"].astype(str)
    convolutions = kinds.str.contains(r"conv\d")
    if 4 * convolutions.sum() < len(layers):
        convolutions &= False
    if (kinds[convolutions] == "conv3x3").any():
        return layers[kinds == "conv3x3"]
    if convolutions.any():
        return layers[kinds == kinds[convolutions].mode()[0]]
    shapes = pd.MultiIndex.from_arrays([layers["numel"].fillna(0), kinds])
    # Among equally common shapes the largest is taken.
    counts = shapes.value_counts().sort_index()
    return layers[shapes == counts[counts == counts.max()].index[-1]]


def counted_rows(layers: pd.DataFrame) -> pd.DataFrame:
    """The rows of layers that count towards depth, without projections of shortcuts and single parameters."""
    shortcuts = layers["shortcut"] if "shortcut" in layers else pd.Series(False, layers.index)
    return layers[~shortcuts & ~layers["kind"].isin(VECTORS)]


def depth_of(layers: pd.DataFrame) -> int:
    """The number of layers that count towards the depth of one network, if its record does not give the depth.

    Args:
        layers: The rows of one network's layers.
    """
    return int(counted_rows(layers)["layer"].nunique())


def summary_row(body: pd.DataFrame, value: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one network.

    Means over seeds are of logarithms. `first / last` has its standard error as a factor; `growth a layer` is that of
    the second moment towards the input, with one slope for all layers and one level for each shape.

    Args:
        body: The layers that are compared, with the column theory.
        value: The column to summarize.
        facts: The facts on the network in the record.
    """
    network = str(facts["network"])
    seeds = body["seed"].nunique(dropna=False)
    logs, index, shape = _by_seed(body, value)
    ratio, ratio_error = _mean(logs[:, 0] - logs[:, -1]) if logs.shape[1] > 1 else (math.nan, math.nan)
    growth, error = (term.item() for term in growth_a_layer(logs, index, shape))
    known = body[body["theory"].notna()]
    theory = growth_a_layer(*_by_seed(known, "theory"))[0].item() if len(known) else math.nan
    errors = body.loc[~is_rounding(body), "float32_error"] if "float32_error" in body else pd.Series(dtype=float)
    return {
        "network": facts.get("name", network),
        "weights": facts.get("weights_label", "–"),
        "BN": facts.get("bn", "–"),
        "depth": facts.get("depth", len(body)),
        "first / last": math.exp(ratio),
        "×/÷": math.exp(ratio_error),
        "growth a layer": math.exp(2 * growth),
        "±": 2 * error * math.exp(2 * growth),
        "theory": math.exp(2 * theory),
        "claim": facts.get("claim"),
        "seeds": seeds,
        "dtype": "/".join(dict.fromkeys(body["dtype"])) if "dtype" in body else None,
        "float32 off by": errors.max() if len(errors) else math.nan,
    }


def logarithms(body: pd.DataFrame, value: str) -> dict[int, float]:
    """The logarithm of the ratio of the first layer's value to the last one's, by seed; empty if there is none.

    Args:
        body: The layers, as in `summary_row`.
        value: The column to summarize.
    """
    logs, _, _ = _by_seed(body, value)
    if logs.shape[1] < 2:
        return {}
    return dict(zip(sorted(body["seed"].fillna(-1).unique()), (logs[:, 0] - logs[:, -1]).tolist(), strict=True))


def is_rounding(rows: pd.DataFrame) -> pd.Series:
    """Whether the gradient of each layer is 0 within rounding even in float64, so that it has no ratio or growth."""
    if "float32_error" not in rows:
        return pd.Series(False, rows.index)
    return rows["float32_error"].astype(float) > ROUNDING


def examples_row(totals: pd.DataFrame) -> dict[str, float]:
    """The statistics of the gradients of single examples, over all parameters: means over seeds, NaN without any.

    If a seed has no value, the mean is missing; the noise scale is the ratio of two means, if it is resolved.

    Args:
        totals: The rows of all parameters of one network.
    """
    titles = {
        "example norm": "example_norm",
        "tr Σ": "variance",
        "|G|²": "gradient_square",
        "diversity": "diversity",
        "mean cosine": "mean_cosine",
    }
    means = {
        title: float(totals[name].astype(float).mean(skipna=False)) if name in totals and len(totals) else math.nan
        for title, name in titles.items()
    }
    order = ("example norm", "tr Σ", "|G|²", "noise scale", "diversity", "mean cosine")
    means["noise scale"] = noise_scale(totals).value
    return {title: means[title] for title in order}


def coverage_share(facts: Mapping[str, Any]) -> float:
    """The measured fraction of a network's parameters, in percent; NaN if its record does not give it."""
    return 100 * facts["coverage"]["share"] if facts.get("coverage") else math.nan


def _by_seed(body: pd.DataFrame, value: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logarithms (S, L) of the layers that every seed has, their places (L,) and shapes (L,)."""
    values = body[value].astype(float).mask(is_rounding(body))
    whole = body.assign(log=np.log(values.where(np.isfinite(values) & (values > 0))), seed=body["seed"].fillna(-1))
    table = whole.pivot_table(index="seed", columns=["index", "call"], values="log", dropna=False)
    table = table.dropna(axis=1, how="any")
    places = table.columns.get_level_values(0).astype(int)
    first = whole.drop_duplicates("index").set_index("index")
    shapes = pd.factorize((first["kind"].astype(str) + first["numel"].astype(str)).loc[places])[0]
    return torch.tensor(table.to_numpy()), torch.tensor(list(places)), torch.tensor(shapes)


def _mean(samples: torch.Tensor) -> tuple[float, float]:
    return samples.mean().item(), standard_error(samples).item()
