"""Sums of squares at the speed of memory."""

import math

import torch
from torch import Tensor

from gradlab.stats.moments import FEW, memory_rows

_ROW = 1024


def sum_of_squares(x: Tensor) -> Tensor:
    """Σ x² over all elements, without waiting for the device.

    Large tensors are squared and summed in rows of 1,024 values in their own precision (float32 at least), and the
    rows joined in float64: good to 1e-6 in float32, whose range is left at 1e19 and under 1e-19.

    Args:
        x: Any real tensor of any floating dtype.

    Returns:
        Float64 (float32 on mps) of shape (); NaN or infinite where an element is.
    """
    x = _at_least_single(x.detach())
    rows: Tensor = torch.linalg.vector_norm(memory_rows(x), dim=1)
    return (rows if x.device.type == "mps" else rows.double()).square().sum()


def sums_of_squares(rows: Tensor) -> Tensor:
    """Σ x² over each row, as `sum_of_squares` takes it.

    Args:
        rows: Shape (n, p), of any floating dtype.

    Returns:
        Float64 (float32 on mps) of shape (n,).
    """
    rows = rows.detach()
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    length, wide = math.gcd(rows.shape[1], _ROW), rows.device.type != "mps"
    if length < _ROW // 16 and wide:
        rows, length = rows.double(), rows.shape[1]
    parts: Tensor = torch.linalg.vector_norm(rows.reshape(len(rows), -1, max(1, length)), dim=2)
    return (parts.double() if wide else parts).square().sum(1)


def _at_least_single(x: Tensor) -> Tensor:
    if x.numel() < FEW and x.device.type != "mps":
        return x.double()
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
