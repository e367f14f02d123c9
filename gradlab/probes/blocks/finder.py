"""Finds the residual blocks of a model while it runs, by what it adds and with no list of names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from gradlab.errors import GradlabError
from gradlab.probes.applications import leave
from gradlab.probes.blocks.additions import PassAdditions
from gradlab.probes.blocks.naming import like_parts, repeated_parts
from gradlab.probes.blocks.readings import Found, Reader
from gradlab.probes.blocks.recorder import Recorder
from gradlab.probes.hooks import Hook
from gradlab.probes.outputs import measurable
from gradlab.probes.passes import Passes


class BlockFinder:
    """Tells of every block of a model: a stream, the branches that are added to it, and what comes of it.

    A block is an addition of which one operand is a signal x and the other a function of it. x may be scaled, gated,
    dropped, cut or padded, or go through one weight, as shortcuts with a projection do, where the function has more
    weights; the function has a weight at least, or is made by another module than the one that adds. How the addition
    is written does not matter: in place or not, with a scale, by `addcmul`, `lerp` or `index_add`. Branches that are
    added to one another first and then to x, in one module, are told apart.

    The stream behind an addition is the sum, or where the block hands it on that way what normalizations and
    activations within the block make of it (post-norm). Signals are known by their memory and version: aliases that
    other people's hooks hand on are the same value.

    Where a model has no such addition, its blocks are the parts that repeat.

    Args:
        model: The root module.
        reader: Who reads tensors, and is told.

    Attributes:
        recomputed: Names of the modules that ran again in a backward pass.
        residual: Whether there was an addition of a branch.
    """

    def __init__(self, model: nn.Module, reader: Reader) -> None:
        self.model, self.reader = model, reader
        self.recomputed: set[str] = set()
        self.residual = False
        self._elements, self._repeated = like_parts(model), repeated_parts(model)
        self._parts: list[Found] = []

    @property
    def unseen(self) -> set[str]:
        """Names of the modules that were given what no function was seen to make."""
        return self._recorder.unseen

    def attach(self, stack: ExitStack) -> None:
        """Register all hooks, their removal on the stack."""
        modules = {name: module for name, module in self.model.named_modules() if name}
        passes = Passes(self.model, modules, self._begin, self._end)
        passes.recomputed = self.recomputed
        self._recorder = Recorder(passes)
        passes.attach(stack, {name: self._after_module(name) for name in ("", *modules)})
        for module in self.model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hook = Hook(self._recorder.after_module)
                stack.enter_context(module.register_forward_hook(hook, with_kwargs=True, prepend=True))
        stack.callback(leave, self._recorder)

    def _begin(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch._C._are_functorch_transforms_active():
            raise GradlabError("blocks are not found within transforms of torch.func: probe the model outside of them")
        self._pass = PassAdditions(self._recorder, self.reader, self._elements)
        self._parts = []
        inputs = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._recorder.start(self._pass, self.model, inputs)
        self._recorder.__enter__()

    def _end(self, whole: bool) -> None:
        leave(self._recorder)
        found = self._pass.found
        self.residual |= whole and bool(found)
        kept = found if self.residual else self._parts
        self._pass.close(kept if whole else [])
        self.reader.finish(kept if whole else [])

    def _after_module(self, name: str) -> Callable[[nn.Module, Any], None]:
        def after(module: nn.Module, output: Any) -> None:
            for _, tensor in measurable(output)[:1]:
                self._pass.leaving(tensor)
                if name in self._repeated and not (self.residual or self._pass.found):
                    self._parts.append(self._pass.part(name, tensor))

        return after
