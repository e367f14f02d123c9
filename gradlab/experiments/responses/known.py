"""Responses after batch normalization by batch statistics, whose moments follow from those statistics.

Torch normalizes by batch statistics with a slow pass of its own, and a probe then reads the result once more. Here the
sums of every channel are taken in one pass, the normalization uses them as if they were running statistics, and the
std of its output follows in closed form (`gradlab.theory.normalized_response_std`).
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradlab.models import batch_statistics
from gradlab.probes import ResponseStd
from gradlab.probes.finder import Site
from gradlab.stats import WELL_CONDITIONED, Accumulator, FastMoments, centred_moments, fast_moments, native
from gradlab.theory import normalized_response_std

_OF_TORCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def is_known(model: nn.Module) -> bool:
    """Whether every batch normalization of a model is one of torch's without hooks, on the CPU."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    plain = all(type(norm) in _OF_TORCH and not (norm._forward_hooks or norm._forward_pre_hooks) for norm in norms)
    return bool(norms) and plain and all(parameter.is_cpu for parameter in model.parameters())


def fastest_layout() -> torch.memory_format:
    """The layout in which such a model runs fastest: channels_last, if the sums of channels are as fast there."""
    return torch.channels_last if native.is_available() else torch.contiguous_format


class KnownResponseStd(ResponseStd):
    """`ResponseStd` of a copy of a model in eval mode, whose batch normalization uses the statistics of each batch.

    Args:
        model: A copy for which `is_known` holds. No buffer changes; while the probe is attached, its batch
            normalizations run another way.
        **options: Those of `ResponseStd`.
    """

    def __init__(self, model: nn.Module, *args: Any, **options: Any) -> None:
        super().__init__(model, *args, **options)
        # Count, mean and m2 of the output of each normalization, between its call and its observation.
        self._known: dict[str, tuple[int, float, float]] = {}

    def _attach(self, stack: ExitStack) -> None:
        stack.enter_context(batch_statistics(self.model))
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm):
                module.forward = partial(self._normalized, name, module)  # type: ignore[method-assign]
                stack.callback(vars(module).pop, "forward")
        super()._attach(stack)

    def _normalized(self, name: str, norm: _BatchNorm, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.numel() <= x.shape[1] or not x.is_floating_point():
            # Torch says what is wrong with it.
            return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        found = native.normalization(x, norm.weight, norm.bias, norm.eps) or _normalization(x, norm)
        if found is None:
            return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        statistics, mean, variance = found
        self._known[name] = x.numel(), mean, x.numel() * variance
        return F.batch_norm(x, statistics[0], statistics[1], norm.weight, norm.bias, False, 0.0, norm.eps)

    def _route_of(self, model: nn.Module) -> None:
        """There is none into compiled code, for the same reason as below."""

    def _adder(self, site: Site) -> None:
        """There is none, since what is known of a response is not in it."""

    def _add(self, site: Site, accumulator: Accumulator, response: Tensor) -> None:
        known = self._known.pop(self._finder.norms.get(site, ""), None)
        if known is not None and isinstance(accumulator, FastMoments):
            accumulator.add(*known)
        else:
            super()._add(site, accumulator, response)


def _normalization(x: Tensor, norm: _BatchNorm) -> tuple[Tensor, float, float] | None:
    """The same as `native.normalization`, by torch's own operations; None if a value is not finite."""
    channels = fast_moments(x, 1)
    if channels.non_finite.any() or x.dtype not in (torch.float32, torch.float64):
        return None
    if (channels.condition > WELL_CONDITIONED).any():
        channels = centred_moments(x, 1)
    std = normalized_response_std(channels.variance, norm.weight, norm.bias, norm.eps).item()
    mean = 0.0 if norm.bias is None else norm.bias.double().mean().item()
    return torch.stack((channels.mean, channels.variance)).to(x.dtype), mean, std**2
