"""Finds the residual blocks of a model while it runs, by its additions and without a list of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from gradlab.errors import GradlabError
from gradlab.probes.applications import leave
from gradlab.probes.blocks.additions import PassAdditions
from gradlab.probes.blocks.conversions import Conversions
from gradlab.probes.blocks.naming import like_parts, repeated_parts
from gradlab.probes.blocks.readings import Found, Reader
from gradlab.probes.blocks.recorder import Recorder
from gradlab.probes.hooks import Hook
from gradlab.probes.outputs import measurable
from gradlab.probes.passes import Passes
from gradlab.probes.tensor_layout import LayoutWatch
from gradlab.results.grouping import some


class BlockFinder:
    """Finds every block of a model: a stream, the branches that are added to it, and the stream after the addition.

    A block is an addition of a signal x and a function of it. x may be scaled, gated, dropped, cropped or padded, or
    pass through one weight, as in shortcuts with a projection, if the function has more weights. The function has at
    least one weight or is computed by another module than the one that performs the addition. The form of the addition
    does not matter: in place or not, with a scale, by `addcmul`, `lerp` or `index_add`. Branches that one module first
    adds to one another and then to x are distinguished.

    The stream after an addition is the sum, or its normalization or activation if the block returns that (post-norm).
    Signals are identified by memory and version, so that aliases returned by other hooks are the same value.

    An addition of a projection and an enlarged function of one signal is no block: so do feature pyramids (Lin et al.
    2016, arXiv:1612.03144) join two levels, neither of which is the other's stream.

    If a model has no such addition, its blocks are the repeated parts.

    Args:
        model: The root module.
        reader: The object that reads tensors and is notified of blocks.
        layout: What is known of layers that are split over ranks.

    Attributes:
        recomputed: The names of the modules that ran again in a backward pass.
        residual: Whether the addition of a branch has been found.
        pyramids: The names of the modules that add levels of a feature pyramid.
    """

    def __init__(self, model: nn.Module, reader: Reader, layout: LayoutWatch | None = None) -> None:
        self.model, self.reader, self.layout = model, reader, layout or LayoutWatch(model)
        self.recomputed: set[str] = set()
        self.pyramids: set[str] = set()
        self._beside: dict[str, None] = {}
        self.residual = False
        self._elements, self._repeated = like_parts(model), repeated_parts(model)
        self._parts: list[Found] = []
        self._part_before: int | None = None

    @property
    def unseen(self) -> set[str]:
        """The names of the modules that received a value that no observed function had returned."""
        return self._recorder.unseen

    @property
    def beside(self) -> list[str]:
        """The repeated parts that are no function of the part before them; blocks with branches share a stream."""
        return [] if self.residual else [*self._beside]

    def attach(self, stack: ExitStack) -> None:
        """Register all hooks, and their removal on the stack."""
        modules = {name: module for name, module in self.model.named_modules() if name}
        passes = Passes(self.model, modules, self._begin, self._end)
        passes.recomputed = self.recomputed
        self._recorder = Recorder(passes)
        self.layout.attach(stack)
        if self.layout.modules:
            Conversions(self.model, self._recorder, self.layout).attach(stack)
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
        self._parts, self._part_before = [], None
        inputs = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._recorder.start(self._pass, self.model, inputs)
        self._recorder.__enter__()

    def _end(self, whole: bool) -> None:
        leave(self._recorder)
        found = self._pass.found
        self.residual |= whole and bool(found)
        kept = found if self.residual else self._parts
        self.pyramids |= self._pass.pyramids
        self._pass.close(kept if whole else [])
        self.reader.finish(kept if whole else [])

    def _after_module(self, name: str) -> Callable[[nn.Module, Any], None]:
        def after(module: nn.Module, output: Any) -> None:
            for _, tensor in measurable(output)[:1]:
                self._pass.leaving(tensor)
                if name in self._repeated and not (self.residual or self._pass.found):
                    self._parts.append(self._pass.part(name, tensor))
                    self._place(name, tensor)

        return after

    def _place(self, name: str, output: Tensor) -> None:
        """Note whether a repeated part follows from the one before it."""
        before, number = self._part_before, self._recorder.values.number(output)
        if before is not None and number is not None and not self._recorder.graph.follows(number, before):
            self._beside[name] = None
        self._part_before = number


def of_pyramids(names: Iterable[str]) -> list[str]:
    """A note on the modules that add levels of a feature pyramid, if there are any."""
    modules = ", ".join(name or "the model" for name in names)
    if not modules:
        return []
    return [f"{modules}: sums of a projection and an enlarged coarser level, as in a feature pyramid, are no blocks"]


def of_parts_beside(names: Sequence[str]) -> list[str]:
    """A note on repeated parts that are no function of the part before them, if there are any."""
    if not names:
        return []
    return [
        f"{some(names)}: no function of the part before, as parts side by side are: there is no stream from the first "
        "part to the last, and no sentence on one"
    ]
