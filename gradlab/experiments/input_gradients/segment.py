"""Input gradients along the segment between two images, with the statistics of their batch fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradlab.errors import GradlabError
from gradlab.experiments.subject import forward
from gradlab.probes import InputGradients
from gradlab.results.input_gradients.result import Sample
from gradlab.stats import segment_autocorrelation


def segment(model: nn.Module, label: str, images: Tensor, points: int, lags: int) -> Tensor:
    """The autocorrelation of the input gradient along the segment between the first two images.

    Args:
        model: The network, with fixed batch statistics.
        label: The label of the network.
        images: A batch, (B, …); B points are measured at a time.
        points: The number of points on the segment, including both ends.
        lags: The largest lag, in points.

    Returns:
        The power of the signal and its autocorrelation at lags 0 to `lags`, float64 of shape (lags + 2,), which are not
        waited for; NaN if a gradient is not finite.
    """
    place = torch.linspace(0, 1, points, dtype=images.dtype, device=images.device)
    line = torch.lerp(images[:1], images[1:2], place.view(-1, *[1] * (images.ndim - 1)))
    gradients: list[Tensor] = []
    with torch.no_grad(), InputGradients(model, observe=gradients.append):
        for part in line.split(len(images)):
            forward(model, label, part)
    autocorrelation, power = segment_autocorrelation(torch.cat(gradients).flatten(1), lags)
    return torch.cat((power[None], autocorrelation))


def segment_samples(label: str, found: Sequence[Tensor]) -> list[Sample]:
    """Read what `segment` has found, in one transfer from the device.

    Raises:
        GradlabError: If a gradient is not finite.
    """
    rows = torch.stack([*found]).tolist() if found else []
    if not all(math.isfinite(power) for power, *_ in rows):
        raise GradlabError(f"{label}: input gradients between two images are not finite; try dtype float64")
    return [{"segment_lag1": acf[1], "segment_power": power, "segment_acf": acf} for power, *acf in rows]


@torch.no_grad()
def fix_statistics(model: nn.Module, label: str, images: Tensor) -> None:
    """Set the running statistics of a model to those of a batch: mean and biased variance.

    Raises:
        GradlabError: If a batch normalization is called twice.
    """
    fixed: set[nn.Module] = set()

    def fix(module: _BatchNorm, args: tuple[Tensor]) -> None:
        if module in fixed:
            raise GradlabError(f"{label} calls one batch normalization twice: along a segment it cannot be fixed")
        fixed.add(module)
        over = [0, *range(2, args[0].ndim)]
        # Statistics are set before the module runs, so that one pass in eval mode fixes every layer in turn.
        module.running_mean = args[0].mean(over)
        module.running_var = args[0].var(over, correction=0)

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                hooks.enter_context(module.register_forward_pre_hook(fix))
        forward(model, label, images)
