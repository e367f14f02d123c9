"""Models whose parameters `fully_shard` has split, and which have them whole while they run."""

from __future__ import annotations

from torch import nn


def is_fully_sharded(module: nn.Module) -> bool:
    """Return whether `fully_shard` was applied to a module, whose parameters it makes whole while the module runs."""
    # It changes the module's class to one of a class of this name.
    return any(base.__name__ == "FSDPModule" for base in type(module).__mro__)
