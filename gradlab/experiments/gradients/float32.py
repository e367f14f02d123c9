"""Gradients that float32 does not resolve: they are detected on a few images and measured in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.gradients.passes import Pass, measure, weight_norms
from gradlab.experiments.request import Dtype
from gradlab.results.gradients.result import GradientsResult
from gradlab.results.gradients.summary import is_rounding
from gradlab.results.grouping import counted

FLOAT32_BOUND = 5e-3
"""The relative error of a layer's norm above which float32 is not accurate enough."""

CERTAIN = 1e-5
"""The loss of an image below which float32 resolves neither the loss nor the image's gradient."""

FLOAT32_IMAGES = 16
"""The number of images on which float32 is compared with float64."""


def measure_soundly(part: Pass, dtype: Dtype | None, count: Callable[[int], None] | None = None) -> GradientsResult:
    """Measure one set of weights in float32 if that is accurate enough, and otherwise in float64.

    The columns dtype and float32_error are added; the latter is the relative error of float32 norms on the first
    images.

    Args:
        part: The network and its data.
        dtype: The dtype: None decides by `FLOAT32_BOUND` and `CERTAIN`; `float32` only marks values beyond these
            bounds; `float64` measures without a comparison.
        count: A function called with the number of images done after every batch.

    Raises:
        UsageError: If the device has no float64 and it is requested.
    """
    if part.stream.device.type == "mps":
        if dtype == "float64":
            raise UsageError("mps has no float64: --device cpu measures in it")
        return _marked(measure(part, torch.float32, count), "float32", {})
    if dtype == "float64":
        return _marked(measure(part, torch.float64, count), "float64", {})
    errors, only_float32 = _float32_errors(part)
    worst = max((error for error in errors.values() if error == error), default=0.0)
    if dtype is None and worst > FLOAT32_BOUND:
        return _marked(measure(part, torch.float64, count), "float64", errors)
    result = _marked(measure(part, torch.float32, count), "float32", errors)
    if only_float32:
        result.notes.append(f"{part.label}: the error of float32 is not known, since {only_float32}")
    certain = 0 if result.examples is None else int((_losses(result.examples) < CERTAIN).sum())
    if certain and part.loss == "cross-entropy":
        have = "has" if certain == 1 else "have"
        found = (
            f"{part.label}: {certain} of {counted(part.images, 'image')} {have} a loss below {CERTAIN:g}, which "
            "float32 does not resolve, so that the gradients of single images are off"
        )
        if only_float32:
            result.notes.append(found)
        elif dtype is None:
            result = _marked(measure(part, torch.float64, count), "float64", errors)
            result.notes.append(f"{found}: measured in float64")
        else:
            result.notes.append(f"{found}: --dtype float64 measures them accurately")
    return result


def _losses(examples: pd.DataFrame) -> pd.Series:
    """The loss of each image, without repetitions."""
    losses: pd.Series = examples.drop_duplicates("example")["loss"]
    return losses


def _marked(result: GradientsResult, dtype: str, errors: dict[str, float]) -> GradientsResult:
    result.frame["dtype"] = dtype
    result.frame["float32_error"] = result.frame["layer"].map(errors).where(~result.frame["block"]).astype(float)
    return result


def _float32_errors(part: Pass) -> tuple[dict[str, float], str | None]:
    """The relative error of the float32 norm of every layer, compared with float64 on a few images.

    Returns:
        The errors by layer, and the reason if there are none, as the network makes float32 tensors in its forward pass
        and cannot run in float64.
    """
    few = part.on_few(FLOAT32_IMAGES)
    single = weight_norms(few, torch.float32)
    try:
        double = weight_norms(few, torch.float64)
    except GradlabError as error:
        return {}, str(error)
    # A norm that is finite only in float64 has an infinite error in float32.
    errors = (single / double - 1).abs().where(double > 0, 0.0).fillna(math.inf)
    return dict(errors.where(np.isfinite(double))), None


def float32_notes(part: Pass, frame: pd.DataFrame, dtype: Dtype | None) -> list[str]:
    """The notes on the accuracy of float32, in the result of a network."""
    label = part.label
    rounding = is_rounding(frame)
    if rounding.any():
        names = frame.loc[rounding, "layer"].unique()
        of = frame.loc[~frame["block"] & frame["float32_error"].notna(), "layer"].nunique()
        zero = f"{label}: the gradient is 0 within rounding, in float64 too, in {len(names)} of {of} layers"
        more = "" if len(names) == of else f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        return [f"{zero}{more}: it has no ratio and no growth", *float32_notes(part, frame[~rounding], dtype)]
    worst = frame.loc[frame["float32_error"].idxmax()] if frame["float32_error"].notna().any() else None
    if worst is None or worst["float32_error"] <= FLOAT32_BOUND:
        return []
    seeds = frame.loc[frame["float32_error"] > FLOAT32_BOUND, "seed"].nunique(dropna=False)
    found = (
        f"{label}: float32 norms are off by up to {worst['float32_error']:.2g} of their value ({worst['layer']}, on "
        f"{counted(part.on_few(FLOAT32_IMAGES).images, 'image')})"
    )
    if dtype == "float32":
        return [f"{found}, as float32_error marks: --dtype float64 measures them accurately"]
    of = frame["seed"].nunique(dropna=False)
    which = "measured" if of == 1 else f"{seeds} of {of} seeds measured"
    return [f"{found}: {which} in float64"]
