"""The channel dimension of a signal, which depends on the layers and moves with every permutation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradlab.probes.applications import NORMALIZING
from gradlab.probes.blocks.operations import PRODUCTS
from gradlab.probes.functions import function_name

_VIEWS = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "view", "reshape", "flatten"}
_VIEWS |= {"unflatten", "unsqueeze", "squeeze", "expand", "chunk", "split", "unbind", "select", "narrow", "__getitem__"}


def channel_dim(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    given: Sequence[tuple[Tensor, int | None]],
    output: Tensor,
) -> int | None:
    """The channel dimension of the output of a torch function; None if it cannot be determined.

    Convolutions put channels before the positions, linear layers and embeddings put them last. Views of a signal move
    them, and other functions leave them in place.

    Args:
        func: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        given: The signals among the arguments, each with its channel dimension.
        output: The returned tensor, or one of several.
    """
    name = function_name(func)
    if name.startswith("conv") and name[-2:] in ("1d", "2d", "3d"):
        return output.ndim - 1 - int(name[-2])
    if name in ("batch_norm", "instance_norm", "group_norm", "local_response_norm"):
        return min(1, output.ndim - 1)
    if name in NORMALIZING or name in PRODUCTS:
        return output.ndim - 1
    known = [(tensor, channel) for tensor, channel in given if channel is not None]
    if name in _VIEWS and known and args and args[0] is known[0][0]:
        return _moved(func, args, kwargs, known[0][1], output)
    return next((channel for tensor, channel in known if tensor.ndim == output.ndim), None)


def likely_channel_dim(tensor: Tensor) -> int:
    """The presumed channel dimension of an unknown signal: that of a convolution for four or five dimensions."""
    return 1 if tensor.ndim in (4, 5) else tensor.ndim - 1


def _moved(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], channel: int, output: Tensor
) -> int | None:
    """The new place of a dimension after a view, which is applied to a tensor with stride 0 in all other dimensions."""
    source = args[0]
    strides = [int(dim == channel) for dim in range(source.ndim)]
    marked = torch.empty(source.shape[channel], device=source.device).as_strided(source.shape, strides)
    try:
        views = func(marked, *args[1:], **kwargs)
    except RuntimeError:
        # Channels are joined with positions, or split.
        return None
    view = views if isinstance(views, Tensor) else views[0]
    if view.untyped_storage()._cdata != marked.untyped_storage()._cdata or view.ndim != output.ndim:
        # The memory was copied, so the channels are joined as well.
        return None
    found = [dim for dim, stride in enumerate(view.stride()) if stride and view.shape[dim] > 1]
    return found[0] if len(found) == 1 else None
