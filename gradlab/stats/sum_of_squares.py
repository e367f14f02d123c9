"""The sum of squares of a tensor, at the speed of memory."""

import torch
from torch import Tensor

from gradlab.stats.moments import FEW, memory_rows


def sum_of_squares(x: Tensor) -> Tensor:
    """Σ x² over all elements, without waiting for the device.

    Large tensors are squared and summed in rows of 1,024 values in their own precision (float32 at least), and the
    rows joined in float64: good to 1e-6 in float32, whose range is left at 1e19 and under 1e-19.

    Args:
        x: Any real tensor of any floating dtype.

    Returns:
        Float64 (float32 on mps) of shape (); NaN or infinite where an element is.
    """
    x = x.detach()
    if x.device.type == "mps":
        return x.float().square().sum()
    if x.numel() < FEW:
        x = x.double()
    elif x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    rows: Tensor = torch.linalg.vector_norm(memory_rows(x), dim=1)
    return rows.double().square().sum()
