"""Parameters of which every rank has a part, and which `fully_shard` makes whole while their module runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from gradlab.errors import UsageError
from gradlab.probes.examples.pieces import Pieces
from gradlab.probes.fully_sharded import is_fully_sharded
from gradlab.probes.hooks import Hook

Owner = tuple[nn.Module, str, int]
"""A module, the name of its parameter and the number of that parameter."""


class Shards:
    """The whole parameters in place of a model's own ones, which are parts, for the forward pass and its graph.

    Args:
        model: The root module.
        pieces: Its parameters, whose `leaves` are kept up to date.
    """

    def __init__(self, model: nn.Module, pieces: Pieces) -> None:
        self._pieces = pieces
        self._owners = {module: _owners(module, pieces) for module in model.modules() if is_fully_sharded(module)}

    def attach(self, stack: ExitStack, found: Callable[[int, Tensor], None]) -> None:
        """Register hooks on the sharded modules, and their removal on the stack.

        Args:
            stack: The stack.
            found: A function called with the number of a parameter and the whole parameter, before each pass.
        """
        for module, owners in self._owners.items():
            # It follows the hook in which fully_shard gathers the parameters.
            hook = Hook(partial(self._gathered, owners, found))
            stack.enter_context(module.register_forward_pre_hook(hook))
        stack.callback(self._pieces.forget_leaves)

    @contextmanager
    def left_whole(self) -> Iterator[None]:
        """A context for a backward pass within another one, after which parameters are whole again that were before.

        Such a pass leaves each module's parameters in shards at its end. Those of a module that gives the model's own
        output are whole when it begins, and the outer pass does not make them so a second time.
        """
        there = [module for module, owners in self._owners.items() if self._are_whole(owners)]
        try:
            yield
        finally:
            for module in there:
                if not self._are_whole(self._owners[module]):
                    module.unshard()  # type: ignore[operator]

    def _are_whole(self, owners: list[Owner]) -> bool:
        leaves = [self._pieces.leaves[number] for _, _, number in owners]
        # Whole parameters that are not in use have no memory.
        return any(not hasattr(leaf, "placements") and leaf.untyped_storage().size() > 0 for leaf in leaves)

    def _gathered(
        self, owners: list[Owner], found: Callable[[int, Tensor], None], module: nn.Module, args: Any
    ) -> None:
        for owner, name, number in owners:
            leaf = owner._parameters[name]
            if leaf is None or leaf is self._pieces.parameters[number]:
                continue
            self._pieces.leaves[number] = leaf
            found(number, leaf)


def refuse_split_layers(model: nn.Module) -> None:
    """Raise an error if a parameter remains in parts while its layer runs, as tensor parallelism leaves it.

    Raises:
        UsageError: If there is such a parameter. The message names it.
    """
    sharded = [name for name, module in model.named_modules() if is_fully_sharded(module)]
    for name, parameter in model.named_parameters():
        placements = getattr(parameter, "placements", None)
        if placements is None:
            continue
        gathered = any(not owner or name.startswith(f"{owner}.") for owner in sharded)
        # Of several dimensions of a mesh, fully_shard splits along one; along others it may copy.
        if not gathered or sum(not placement.is_replicate() for placement in placements) > 1:
            raise UsageError(
                f"{name}: tensor parallelism runs a part of its layer on each rank, so that no rank has the inputs and "
                "gradients that the whole gradient of an example takes: measure the model before parallelize_module; "
                "fully_shard alone can be measured"
            )


def refuse_later_shards(model: nn.Module, pieces: Pieces) -> None:
    """Raise an error if parameters were sharded since they were numbered.

    Raises:
        UsageError: If some were. The message names one.
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements") and parameter not in pieces.numbers:
            raise UsageError(f"{name} was sharded after the probe was made: make the probe of the sharded model")


def _owners(module: nn.Module, pieces: Pieces) -> list[Owner]:
    """Return the parameters that a sharded module gathers: those of its parts which are not sharded themselves."""
    found = [(module, name, pieces.numbers[value]) for name, value in module._parameters.items() if value is not None]
    for child in module.children():
        if not is_fully_sharded(child):
            found += _owners(child, pieces)
    return found
