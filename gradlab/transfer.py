"""Copies to a device that may be busy, without waiting for it."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def uploaded(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor from the CPU to a device; one that is on another device is moved as torch moves it.

    Args:
        tensor: The tensor, which is not changed afterwards where the copy may still be under way.
        device: The device.
    """
    where = torch.device(device)
    if not tensor.is_cpu or not _reads_later(where):
        return tensor.to(where)
    # CUDA may wait for its work before it copies from memory that it cannot read by itself.
    ready = tensor.pin_memory() if where.type == "cuda" else tensor
    return ready.to(where, non_blocking=True)


def placed(model: M, device: torch.device | str, dtype: torch.dtype | None = None) -> M:
    """Move a module to a device, in place, without waiting for each of its parameters and buffers.

    Args:
        model: The module.
        device: The device.
        dtype: The dtype of floating-point parameters and buffers; None keeps theirs.
    """
    where = torch.device(device)
    return model.to(where, dtype, non_blocking=_reads_later(where))


def _reads_later(device: torch.device) -> bool:
    """Whether a copy from the CPU to a device may go on while the program does.

    Torch's copies to mps read the memory of the CPU when it may already hold other numbers (pytorch issue 189690).
    """
    return device.type not in ("cpu", "mps", "meta")
