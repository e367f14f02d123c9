"""Norms at the speed of memory, for values of any scale that their dtype can represent.

Sums of squares in float32 are wrong for values below 1e-19 or above 1e19. On the CPU such cases are recognised by
the resulting norm, and computed again in float64. On accelerators, where reading a norm would synchronize, all norms
are computed in float64.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.stats.memory_rows import memory_rows, real_pairs, summable
from gradlab.stats.precision import trusted_norm, wide_norms, widest

_ROW = 1024
"""Largest length of a row summed in float32, unless the length has no such divisor."""

_CHUNK = 1 << 22
"""Number of elements copied at a time, where a copy is needed."""

TAME = 2.0**60
"""Norms between the inverse of this number and the number itself have products and inverses within float32's range."""


def l2_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Compute the L2 norms of tensors of any shapes and dtypes, without synchronizing with their device.

    Args:
        tensors: One or more tensors. DTensors count with all shards, sparse tensors with their values, and complex
            numbers z with |z|; the norm of an empty tensor is 0.

    Returns:
        The norms, float64 (float32 on mps) of shape (len(tensors),), on the device of the first tensor.
    """
    single, strided = torch.float32, torch.strided
    dense = [t if t.dtype is single and t.layout is strided else _floating_values(t) for t in tensors]
    device = dense[0].device
    wide = widest(device)
    if any(hasattr(tensor, "full_tensor") for tensor in dense):
        # Norms are computed one by one, since a DTensor has no foreach norm in another dtype.
        norms = [torch.linalg.vector_norm(tensor, dtype=wide) for tensor in dense]
        norms = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    elif wide is torch.float64:
        norms = list(torch._foreach_norm(dense, 2, dtype=wide))
    else:
        norms = [wide_norms(tensor.reshape(-1), 0) if tensor.numel() else tensor.new_zeros(()) for tensor in dense]
    if all(norm.device == device for norm in norms):
        return torch.stack(norms)
    return torch.stack([norm.to(device, non_blocking=True) for norm in norms])


def row_norms(x: Tensor) -> Tensor:
    """Compute the L2 norms of rows of values in memory order, so that those of several tensors can be joined at once.

    Args:
        x: Any tensor of a floating or complex dtype.

    Returns:
        The norms of rows of up to 4,096 values, or on accelerators of all values together, shape (rows,); float64, or
        float32 where its range suffices. Their own norm is that of x, in float32 with a relative error of at most
        1e-6, or 4e-6 where a few values in a thousand are thousands of times larger than the others. A norm is NaN
        or infinite if an element is.
    """
    x = x.detach()
    if x.is_complex():
        x = real_pairs(x)
    if not x.is_cpu or type(x) is not Tensor:
        # Values on another device or in shards must not be read.
        return l2_norms([x])
    parts = memory_rows(summable(x))
    norms: Tensor = torch.linalg.vector_norm(parts[0], dim=1)
    if len(parts) > 1:
        norms = torch.cat([norms, *(torch.linalg.vector_norm(rows, dim=1) for rows in parts[1:])])
    if norms.dtype is torch.float32 and not trusted_norm(x.numel(), torch.float32) <= norms.max().item() < torch.inf:
        return torch.cat([_wide_joint_norms(rows[None]) for rows in parts])
    return norms


def joint_norms(pieces: Tensor) -> Tensor:
    """Compute the L2 norms of rows that are split into k pieces, each accurate whatever the scale of the others.

    Args:
        pieces: The pieces of n rows, shape (k, n, p), of a floating or complex dtype.

    Returns:
        The norms, float64 (float32 on mps) of shape (n,).
    """
    return tame_norms(pieces)[0]


def tame_norms(pieces: Tensor) -> tuple[Tensor, bool]:
    """Compute `joint_norms`, and whether the norms are known to be tame.

    Tame norms are not 0, and float32 represents their inverses and products as accurately as if all were 1. On
    accelerators nothing is known.
    """
    if not pieces.is_cpu:
        return _wide_joint_norms(pieces), False
    if pieces.dtype is not torch.float32:
        return (_short_joint_norms if pieces.dtype is torch.float64 else _wide_joint_norms)(pieces), False
    norms = _short_joint_norms(pieces)
    k, n, p = pieces.shape
    least = trusted_norm(k * p, torch.float32)
    if n and norms.min().item() >= least and norms.max().item() <= TAME:
        return norms, True
    places = (~((norms >= least) & (norms <= TAME))).nonzero().flatten()
    if len(places) and pieces.numel():
        rows = pieces.index_select(1, places)
        # Most often these rows are 0, since an example that is classified with certainty has no gradient.
        if any(bound.item() != 0 for bound in torch.aminmax(rows)):
            norms[places] = _wide_joint_norms(rows)
    return norms, False


def all_tame(norms: Tensor) -> bool:
    """Return whether every norm on the CPU is 0 or within `TAME`, so that float32 holds products and inverses."""
    return bool(((norms == 0) | ((norms >= 1 / TAME) & (norms <= TAME))).all())


def _short_joint_norms(pieces: Tensor) -> Tensor:
    """Compute `joint_norms` on the CPU, by sums of squares of short parts in the pieces' own precision."""
    k, n, p = pieces.shape
    parts = _even_parts(p)
    if parts is None:
        return wide_norms(pieces, (0, 2))
    if parts > 1:
        pieces = pieces.reshape(k, n * parts, p // parts)
    short: Tensor = torch.linalg.vector_norm(pieces, dim=2)
    if k * parts == 1:
        return short[0].double()
    joined: Tensor = torch.linalg.vector_norm(short.view(k, n, parts), dim=(0, 2), dtype=torch.float64)
    return joined


def _wide_joint_norms(pieces: Tensor) -> Tensor:
    """Compute `joint_norms` by sums of squares in float64, a few rows at a time to keep the copies small."""
    if pieces.is_complex():
        pieces = real_pairs(pieces).flatten(2)
    k, n, p = pieces.shape
    if not pieces.numel():
        return pieces.new_zeros(n, dtype=widest(pieces.device))
    return torch.cat([wide_norms(part, (0, 2)) for part in pieces.split(max(1, _CHUNK // (k * p)), 1)])


@functools.cache
def _even_parts(length: int) -> int | None:
    """Return into how many equal parts of at most `_ROW` values a row can be split, or None if too many are needed."""
    least = max(1, -(-length // _ROW))
    return next((parts for parts in range(least, 8 * least + 1) if length % parts == 0), None)


def _floating_values(x: Tensor) -> Tensor:
    """Return the values of a tensor of any layout and dtype in a layout and dtype for which norms exist."""
    if x.layout is not torch.strided:
        x = x.coalesce().values() if x.is_sparse else x.values()
    if x.is_floating_point() and x.dtype.itemsize > 1:
        return x
    return real_pairs(x) if x.is_complex() else x.to(widest(x.device))
