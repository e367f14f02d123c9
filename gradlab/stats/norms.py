"""Norms at the speed of memory, at any scale that the values' own dtype can hold.

Sums of squares in float32 are wrong for values under 1e-19 and beyond 1e19. On the CPU the norms that come of them
tell, and those few are taken again in float64; on accelerators, which nothing may wait for, all are in float64.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.stats.memory_rows import memory_rows, real_pairs, summable
from gradlab.stats.precision import trusted_norm, wide_norms, widest

_ROW = 1024
"""Length of a row summed in float32, at most, unless its length has no such divisor."""

_CHUNK = 1 << 22
"""Elements copied at a time, where a copy is needed."""

_TAME = 2.0**60
"""Of norms up to this and from its inverse on float32 holds products of two, and their inverses."""


def l2_norms(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norms of tensors of any shapes and dtypes, without waiting for their device.

    Args:
        tensors: At least one. DTensors count with all shards, sparse ones with their values, and complex numbers z
            with |z|; the norm of none is 0.

    Returns:
        Float64 (float32 on mps) of shape (len(tensors),), on the first one's device.
    """
    single, strided = torch.float32, torch.strided
    dense = [t if t.dtype is single and t.layout is strided else _floating_values(t) for t in tensors]
    device = dense[0].device
    wide = widest(device)
    if any(hasattr(tensor, "full_tensor") for tensor in dense):
        # One by one: a DTensor has no foreach norm of another dtype.
        norms = [torch.linalg.vector_norm(tensor, dtype=wide) for tensor in dense]
        norms = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    elif wide is torch.float64:
        norms = list(torch._foreach_norm(dense, 2, dtype=wide))
    else:
        norms = [wide_norms(tensor.reshape(-1), 0) if tensor.numel() else tensor.new_zeros(()) for tensor in dense]
    return torch.stack([norm.to(device, non_blocking=True) for norm in norms])


def row_norms(x: Tensor) -> Tensor:
    """L2 norms of rows of values, in memory order: those of several tensors can be joined at once.

    Args:
        x: Any tensor of a floating or complex dtype.

    Returns:
        Shape (rows,), of up to 4,096 values each, on accelerators of all of them; float64, or float32 where that
        holds them. The norm of x is theirs: in float32 good to 1e-6, or to 4e-6 where a few values in a thousand are
        thousands of times the others. NaN or infinite where an element is.
    """
    x = x.detach()
    if x.is_complex():
        x = real_pairs(x)
    if not x.is_cpu or type(x) is not Tensor:
        # Nothing can be read of what lies on another device or in shards.
        return l2_norms([x])
    parts = memory_rows(summable(x))
    norms: Tensor = torch.linalg.vector_norm(parts[0], dim=1)
    if len(parts) > 1:
        norms = torch.cat([norms, *(torch.linalg.vector_norm(rows, dim=1) for rows in parts[1:])])
    if norms.dtype is torch.float32 and not trusted_norm(x.numel(), torch.float32) <= norms.max().item() < torch.inf:
        return torch.cat([_wide_joint_norms(rows[None]) for rows in parts])
    return norms


def joint_norms(pieces: Tensor) -> Tensor:
    """The L2 norm of rows that lie in k pieces, each right whatever the scale of others.

    Args:
        pieces: Shape (k, n, p), of a floating or complex dtype.

    Returns:
        Float64 (float32 on mps) of shape (n,).
    """
    return tame_norms(pieces)[0]


def tame_norms(pieces: Tensor) -> tuple[Tensor, bool]:
    """The norms as of `joint_norms`, and whether they are known to be tame.

    That is, float32 holds their inverses and products as well as if all were 1, and none is 0. Nothing is known on
    accelerators.
    """
    if not pieces.is_cpu:
        return _wide_joint_norms(pieces), False
    if pieces.dtype is not torch.float32:
        return (_short_joint_norms if pieces.dtype is torch.float64 else _wide_joint_norms)(pieces), False
    norms = _short_joint_norms(pieces)
    k, n, p = pieces.shape
    least = trusted_norm(k * p, torch.float32)
    if n and norms.min().item() >= least and norms.max().item() <= _TAME:
        return norms, True
    places = (~((norms >= least) & (norms <= _TAME))).nonzero().flatten()
    if len(places) and pieces.numel():
        rows = pieces.index_select(1, places)
        # Most often they are 0: an example that is certain has no gradient.
        if any(bound.item() != 0 for bound in torch.aminmax(rows)):
            norms[places] = _wide_joint_norms(rows)
    return norms, False


def all_tame(norms: Tensor) -> bool:
    """Whether norms on the CPU are 0, or float32 holds their inverses and products as well as if they were 1."""
    return bool(((norms == 0) | ((norms >= 1 / _TAME) & (norms <= _TAME))).all())


def _short_joint_norms(pieces: Tensor) -> Tensor:
    """On the CPU, by sums of squares of short parts in the pieces' own precision."""
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
    """By sums of squares in float64, for some rows after others, so that the copies stay small."""
    if pieces.is_complex():
        pieces = real_pairs(pieces).flatten(2)
    k, n, p = pieces.shape
    if not pieces.numel():
        return pieces.new_zeros(n, dtype=widest(pieces.device))
    return torch.cat([wide_norms(part, (0, 2)) for part in pieces.split(max(1, _CHUNK // (k * p)), 1)])


@functools.cache
def _even_parts(length: int) -> int | None:
    """Into how many equal parts of at most `_ROW` values a row can be cut, unless into too many."""
    least = max(1, -(-length // _ROW))
    return next((parts for parts in range(least, 8 * least + 1) if length % parts == 0), None)


def _floating_values(x: Tensor) -> Tensor:
    """The values of a tensor of any layout and dtype in one that norms are taken of."""
    if x.layout is not torch.strided:
        x = x.coalesce().values() if x.is_sparse else x.values()
    if x.is_floating_point() and x.dtype.itemsize > 1:
        return x
    return real_pairs(x) if x.is_complex() else x.to(widest(x.device))
