"""The compilation of a network for training, block by block where blocks are repeated."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import chain

import torch
from torch import nn


def compile_network(model: nn.Module) -> nn.Module:
    """Compile a network.

    Repeated blocks are compiled in place and one by one, so that equal ones are compiled once, however many there are.
    A network without, or with too many different ones, is compiled as a whole. What was compiled before in this process
    is forgotten, and compiled anew when it runs again: torch compiles one function a few times only, and would run the
    blocks of the second or third network of a process eagerly.

    Args:
        model: The network.

    Returns:
        What to call in place of the network: the network itself, or a compiled module around it.
    """
    torch.compiler.reset()
    blocks = _repeated_blocks(model)
    if not 0 < len(set(map(_kind, blocks))) <= torch._dynamo.config.recompile_limit:
        return torch.compile(model)  # type: ignore[return-value]
    for block in blocks:
        # A size that differs between stages is a constant in each of them.
        block.compile(dynamic=False)
    return model


def _kind(block: nn.Module) -> Hashable:
    """A key that is equal for blocks that are compiled once: torch takes shapes and the settings of layers as known."""
    return tuple(
        (
            type(module),
            tuple(parameter.shape for parameter in module.parameters(recurse=False)),
            repr(sorted((name, value) for name, value in vars(module).items() if _is_setting(value))),
        )
        for module in block.modules()
    )


def _is_setting(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, bool | int | float | str)


def _repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost modules of several layers that have siblings of their own class."""
    children = list(model.children())
    blocks = [child for child in children if _is_block(child) and sum(type(o) is type(child) for o in children) > 1]
    others = [child for child in children if not any(child is block for block in blocks)]
    return blocks + list(chain.from_iterable(map(_repeated_blocks, others)))


def _is_block(module: nn.Module) -> bool:
    return len(list(module.children())) > 1 and not isinstance(module, nn.Sequential | nn.ModuleList)
