"""Norms at the speed of memory."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.stats.moments import FEW, memory_rows
from gradlab.stats.precision import widest

_ROW = 4096
"""Length of a row summed in float32, at most."""


def l2_norms(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norms of tensors of any shapes and floating dtypes, without waiting for their device.

    Args:
        tensors: At least one; DTensors count with all shards, sparse ones with their values.

    Returns:
        Float64 (float32 on mps) of shape (len(tensors),), on the first one's device.
    """
    dense = [tensor.coalesce().values() if tensor.is_sparse else tensor for tensor in tensors]
    device = dense[0].device
    wide = widest(device)
    if any(hasattr(tensor, "full_tensor") for tensor in dense):
        # One by one: a DTensor has no foreach norm of another dtype.
        norms = [torch.linalg.vector_norm(tensor, dtype=wide) for tensor in dense]
        norms = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    else:
        norms = list(torch._foreach_norm(dense, 2, dtype=wide))
    return torch.stack([norm.to(device, non_blocking=True) for norm in norms])


def row_norms(x: Tensor) -> Tensor:
    """L2 norms of rows of up to 4,096 values, in memory order: those of several tensors can be joined at once.

    Args:
        x: Any real tensor of any floating dtype.

    Returns:
        In the tensor's own precision, float32 at least, and float64 for small tensors; shape (rows,). The norm of x
        is theirs: good to 1e-6 in float32, whose range is left at 1e19 and under 1e-19. NaN or infinite where an
        element is.
    """
    rows = memory_rows(_at_least_single(x.detach()))
    if len(rows) % 4 == 0:
        # Not a view where the gradient is an expanded one, such as that of a sum.
        rows = rows.reshape(len(rows) // 4, 4 * rows.shape[1])
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


def joint_norms(pieces: Tensor) -> Tensor:
    """The L2 norm of rows that lie in k pieces, with the care of `row_norms`.

    Args:
        pieces: Shape (k, n, p), float32 or float64.

    Returns:
        Float64 (float32 on mps) of shape (n,).
    """
    k, n, p = pieces.shape
    wide = widest(pieces.device)
    parts = _even_parts(p)
    if parts is None:
        norms: Tensor = torch.linalg.vector_norm(pieces, dim=(0, 2), dtype=wide)
        return norms
    if parts > 1:
        pieces = pieces.reshape(k, n * parts, p // parts)
    short: Tensor = torch.linalg.vector_norm(pieces, dim=2)
    if k * parts == 1:
        return short[0].to(wide)
    joined: Tensor = torch.linalg.vector_norm(short.view(k, n, parts), dim=(0, 2), dtype=wide)
    return joined


@functools.cache
def _even_parts(length: int) -> int | None:
    """Into how many equal parts of at most 4,096 values a row can be cut, unless into too many."""
    least = max(1, -(-length // _ROW))
    return next((parts for parts in range(least, 8 * least + 1) if length % parts == 0), None)


def _at_least_single(x: Tensor) -> Tensor:
    if x.numel() < FEW and x.device.type != "mps":
        return x.double()
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
