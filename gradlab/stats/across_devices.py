"""Sums of values that lie on several devices, as those of a model that was moved while it was measured."""

from __future__ import annotations

import torch
from torch import Tensor


def joint_device(one: Tensor, other: Tensor) -> torch.device:
    """Return where two tensors are joined: on an accelerator if one of them is there, which the host need not await."""
    return other.device if one.is_cpu else one.device


def added(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum of two tensors, on whichever devices they are."""
    if one.device == other.device:
        return one + other
    device = joint_device(one, other)
    return one.to(device, non_blocking=True) + other.to(device, non_blocking=True)
