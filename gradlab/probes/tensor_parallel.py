"""Layers that tensor parallelism has split, of whose responses a rank may have a part."""

from __future__ import annotations

from torch import nn

from gradlab.errors import UsageError
from gradlab.probes.ranks import Ranks


def refuse_tensor_parallel(model: nn.Module, ranks: Ranks) -> None:
    """Raise an error if results are to be merged over ranks that have parts of one layer or the same examples.

    Args:
        model: The model that is measured.
        ranks: The ranks.

    Raises:
        UsageError: If a parameter is split otherwise than by `fully_shard`. The message names it.
    """
    if len(ranks.numbers) == 1:
        return
    # fully_shard changes a module's class to one of this name, and parameters are whole in the forward pass.
    sharded = [name for name, module in model.named_modules() if _is_fully_sharded(module)]
    for name, parameter in model.named_parameters():
        if not hasattr(parameter, "placements"):
            continue
        whole_in_forward = any(not owner or name.startswith(f"{owner}.") for owner in sharded)
        if not whole_in_forward or any(not placement.is_replicate() for placement in parameter.placements[:-1]):
            raise UsageError(
                f"{name}: tensor parallelism gives ranks parts of a layer, or the same examples, which results do not "
                "merge: measure the model before parallelize_module, or what one rank computes with local=True"
            )


def _is_fully_sharded(module: nn.Module) -> bool:
    return any(base.__name__ == "FSDPModule" for base in type(module).__mro__)
