"""Models whose parameters `fully_shard` has split, and which have them whole while they run."""

from __future__ import annotations

from torch import nn


def is_fully_sharded(module: nn.Module) -> bool:
    """Return whether `fully_shard` was applied to a module, whose parameters it makes whole while the module runs."""
    # It changes the module's class to one of a class of this name.
    return any(base.__name__ == "FSDPModule" for base in type(module).__mro__)


def gathered_owners(model: nn.Module) -> list[tuple[nn.Module, list[nn.Module]]]:
    """Return each module that `fully_shard` was applied to, with the modules whose parameters it makes whole."""
    return [(module, _owners(module)) for module in model.modules() if is_fully_sharded(module)]


def _owners(module: nn.Module) -> list[nn.Module]:
    return [module, *(o for child in module.children() if not is_fully_sharded(child) for o in _owners(child))]
