"""Where float32 does not carry a gradient: found out on a few images, and measured in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from gradlab.errors import UsageError
from gradlab.experiments.gradients.passes import Pass, measure
from gradlab.experiments.request import Dtype
from gradlab.results.gradients.result import GradientsResult
from gradlab.results.gradients.summary import is_rounding

FLOAT32_BOUND = 5e-3
"""Relative error of a layer's norm from which float32 is not trusted."""

CERTAIN = 1e-5
"""Loss of an image below which float32 does not tell how certain the network is, nor so the image's gradient."""

FLOAT32_IMAGES = 16
"""Images on which float32 is held against float64."""


def measure_soundly(part: Pass, dtype: Dtype | None, count: Callable[[int], None] | None = None) -> GradientsResult:
    """Measure one set of weights in float32 where that carries it, else in float64.

    The frame gets dtype, and float32_error: the relative error of float32 norms on the first images.

    Args:
        part: What to measure.
        dtype: None decides by `FLOAT32_BOUND` and `CERTAIN`; `float32` marks what lies beyond; `float64` tries nothing.
        count: As of `measure`.

    Raises:
        UsageError: For float64 on a device that has none.
    """
    if part.stream.device.type == "mps":
        if dtype == "float64":
            raise UsageError("mps has no float64: --device cpu measures in it")
        return _marked(measure(part, torch.float32, count), "float32", {})
    if dtype == "float64":
        return _marked(measure(part, torch.float64, count), "float64", {})
    errors = _float32_errors(part)
    worst = max((error for error in errors.values() if error == error), default=0.0)
    if dtype is None and worst > FLOAT32_BOUND:
        return _marked(measure(part, torch.float64, count), "float64", errors)
    result = _marked(measure(part, torch.float32, count), "float32", errors)
    certain = 0 if result.examples is None else int((_losses(result.examples) < CERTAIN).sum())
    if certain and part.loss == "cross-entropy":
        found = (
            f"{part.label}: {certain} of {part.images} images have a loss below {CERTAIN:g}, which float32 does not "
            "resolve, so that their own gradients are off"
        )
        if dtype is None:
            result = _marked(measure(part, torch.float64, count), "float64", errors)
            result.notes.append(f"{found}: measured in float64")
        else:
            result.notes.append(f"{found}: --dtype float64 measures them right")
    return result


def _losses(examples: pd.DataFrame) -> pd.Series:
    """Each image's loss, once."""
    losses: pd.Series = examples.drop_duplicates("example")["loss"]
    return losses


def _marked(result: GradientsResult, dtype: str, errors: dict[str, float]) -> GradientsResult:
    result.frame["dtype"] = dtype
    result.frame["float32_error"] = result.frame["layer"].map(errors).where(~result.frame["block"]).astype(float)
    return result


def _float32_errors(part: Pass) -> dict[str, float]:
    """Relative error of float32 norms of every layer, on a few images that float64 is tried on too."""
    few = part.on_few(FLOAT32_IMAGES)
    single, double = (
        measure(few, dtype).layers().groupby("layer")["grad_norm"].mean() for dtype in (torch.float32, torch.float64)
    )
    # What is finite in float64 alone is infinitely wrong in float32.
    errors = (single / double - 1).abs().where(double > 0, 0.0).fillna(math.inf)
    return dict(errors.where(np.isfinite(double)))


def float32_notes(label: str, frame: pd.DataFrame, dtype: Dtype | None) -> list[str]:
    """What is to be known of float32, in words."""
    rounding = is_rounding(frame)
    if rounding.any():
        names = frame.loc[rounding, "layer"].unique()
        of = frame.loc[~frame["block"] & frame["float32_error"].notna(), "layer"].nunique()
        zero = f"{label}: the gradient is 0 within rounding, in float64 too, in {len(names)} of {of} layers"
        more = "" if len(names) == of else f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        return [f"{zero}{more}: it has no ratio and no growth", *float32_notes(label, frame[~rounding], dtype)]
    worst = frame.loc[frame["float32_error"].idxmax()] if frame["float32_error"].notna().any() else None
    if worst is None or worst["float32_error"] <= FLOAT32_BOUND:
        return []
    seeds = frame.loc[frame["float32_error"] > FLOAT32_BOUND, "seed"].nunique(dropna=False)
    found = (
        f"{label}: float32 norms are off by up to {worst['float32_error']:.2g} of their value ({worst['layer']}, on "
        f"{FLOAT32_IMAGES} images)"
    )
    if dtype == "float32":
        return [f"{found}, as float32_error marks: --dtype float64 measures them right"]
    of = frame["seed"].nunique(dropna=False)
    which = "measured" if of == 1 else f"{seeds} of {of} seeds measured"
    return [f"{found}: {which} in float64"]
