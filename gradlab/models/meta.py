"""Copies of a model without values, from which structure and cost are read without computing anything."""

import copy

import torch
from torch import Tensor, nn


def meta_copy(model: nn.Module, device: str = "meta") -> nn.Module:
    """Copy a model to the meta device, in eval mode and without hooks, so that no value is copied.

    Args:
        model: Any module.
        device: Another device, where the copy has memory that is never written, for a pass over no inputs at all.
    """
    memo: dict[int, Tensor] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device=device)
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device=device)
    clone = copy.deepcopy(model, memo)  # type: ignore[arg-type]
    for module in clone.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    return clone.eval()
