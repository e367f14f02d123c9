"""Runs a network on one batch many times with lesions, each time only from the first change on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from gradlab.experiments.lesion.additions import AdditionMode
from gradlab.experiments.lesion.plan import Lesion
from gradlab.experiments.lesion.structure import Structure
from gradlab.experiments.subject import forward
from gradlab.probes.blocks.numbering import Place
from gradlab.probes.blocks.operations import Operand

MOST_BYTES = 2 << 30
"""The memory for the outputs of blocks; blocks beyond it run again in every pass."""

INTACT = Lesion("intact")


class Replay:
    """A network that is run with lesions.

    A residual module is deleted by taking its stream in the place of the sum, as it is added, with all that the
    shortcut does to it. A layer is deleted by handing on its input, also past the normalization behind it. Blocks are
    reordered by exchanging the modules.

    The first pass over a batch is intact, and keeps what every block puts out. In the later ones, blocks that end
    before the first change return that instead of running, which gives the same numbers bit for bit where
    `stood_still`.

    Args:
        model: A network in eval mode, which is changed within the `with` block.
        label: Its label.
        structure: Its parts.
    """

    def __init__(self, model: nn.Module, label: str, structure: Structure) -> None:
        self.model, self.label, self.structure = model, label, structure
        self._modules = {name: model.get_submodule(name) for name in structure.blocks}
        self._kept: dict[str, Any] = {}
        # Moments of the intact pass: when each block ended, and when each part and each block began.
        self._ended: dict[str, int] = {}
        self._began: dict[str | int, int] = {}
        self._signatures: dict[str, tuple[Any, ...]] = {}
        self._clock = 0
        self._bytes = 0
        self._now = INTACT
        self._from: float | None = None
        self._images: Tensor | None = None
        self._keeps = True
        self._same: list[Tensor] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._mode = _Deleting(self, stack)
            for index, part in enumerate(self.structure.parts):
                for layer in part.layers:
                    self._replace(stack, layer, self._deletable(index, self.model.get_submodule(layer).forward))
            for name, module in self._modules.items():
                self._replace(stack, name, self._keeping(name, module.forward))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @torch.no_grad()
    def intact(self, images: Tensor) -> Tensor:
        """Run the network as it is on a new batch, to which all lesions that follow refer.

        Returns:
            The logits.
        """
        self._images, self._now, self._from = images, INTACT, None
        self._kept, self._ended, self._began, self._signatures = {}, {}, {}, {}
        self._clock = self._bytes = 0
        logits = self._run()
        if self._keeps:
            # With all blocks standing still, the rest of the network must give the same.
            self._from = float("inf")
            self._same.append((self._run() == logits).all())
        return logits

    def stood_still(self) -> bool:
        """Whether the blocks that did not run were not missed in any batch, which waits for the device.

        After a batch in which they were, as where a block hands on more than its output, all blocks always run.
        """
        same = all(torch.stack(self._same).tolist()) if self._same else True
        self._same, self._keeps = [], self._keeps and same
        return same

    @torch.no_grad()
    def lesioned(self, lesion: Lesion) -> Tensor:
        """Run the network with a lesion on the batch of the last intact pass.

        Returns:
            The logits.
        """
        self._now, changed = lesion, [block for block, now in enumerate(lesion.order) if block != now]
        begins = [self._began[index] for index in lesion.deleted]
        begins += [self._began[self.structure.blocks[block]] for block in changed]
        self._from = min(begins, default=float("inf")) if self._keeps else 0
        with ExitStack() as stack:
            self._reorder(stack, lesion.order)
            return self._run()

    def alike(self) -> list[list[int]]:
        """The indices of blocks of one class that take and return tensors of one shape, by group."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, name in enumerate(self.structure.blocks):
            if name in self._signatures:
                groups.setdefault(self._signatures[name], []).append(index)
        return [*groups.values()]

    def is_deleted(self, index: int) -> bool:
        """Whether a part is deleted at present."""
        return index in self._now.deleted

    def begin(self, part: int | str) -> None:
        """Take note that a part or a block begins, in the intact pass."""
        if self._from is None:
            self._began.setdefault(part, self._tick())

    def _run(self) -> Tensor:
        assert self._images is not None
        with self._mode:
            return forward(self.model, self.label, self._images)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _replace(self, stack: ExitStack, name: str, forward: Callable[..., Any]) -> None:
        """Give a module another `forward` until the stack closes."""
        module = self.model.get_submodule(name)
        own = vars(module).get("forward")
        module.forward = forward  # type: ignore[method-assign]
        stack.callback(lambda: vars(module).update(forward=own) if own else vars(module).pop("forward"))

    def _deletable(self, index: int, run: Callable[..., Any]) -> Callable[..., Any]:
        """The forward pass of a layer, or of the normalization behind it."""

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.begin(index)
            return x.clone() if self.is_deleted(index) else run(x, *args, **kwargs)

        return forward

    def _keeping(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """The forward pass of a block, which returns what it has kept if nothing changes before its end."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._from is None:
                return self._keep(name, run, args, kwargs)
            if name in self._kept and self._ended[name] < self._from:
                return _copied(self._kept[name])
            return run(*args, **kwargs)

        return forward

    def _keep(self, name: str, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in self._ended:
            # A block that runs twice in a pass has no one output.
            self._keeps = False
        self.begin(name)
        given = [leaf.shape for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        output = run(*args, **kwargs)
        found = [leaf for leaf in _pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        self._ended[name] = self._tick()
        self._signatures[name] = (type(self._modules[name]), *given, None, *(tensor.shape for tensor in found))
        size = sum(tensor.numel() * tensor.element_size() for tensor in found)
        if self._keeps and self._bytes + size <= MOST_BYTES:
            self._bytes += size
            self._kept[name] = _copied(output)
        return output

    def _reorder(self, stack: ExitStack, order: tuple[int, ...]) -> None:
        """Put blocks in one another's places until the stack closes."""
        names = self.structure.blocks
        for place, block in enumerate(order):
            if place != block:
                parent, _, child = names[place].rpartition(".")
                modules = self.model.get_submodule(parent)._modules
                modules[child] = self._modules[names[block]]
                stack.callback(modules.__setitem__, child, self._modules[names[place]])


class _Deleting(AdditionMode):
    """Leaves out the branches of deleted residual modules."""

    def __init__(self, replay: Replay, stack: ExitStack) -> None:
        super().__init__(replay.model, stack)
        self._replay = replay
        parts = enumerate(replay.structure.parts)
        self._found = {part.addition.place: (index, part.addition) for index, part in parts if part.addition}

    def add(self, place: Place, pair: tuple[Operand, Operand], compute: Callable[[], Tensor]) -> Tensor:
        """See `AdditionMode`."""
        if place not in self._found:
            return compute()
        index, addition = self._found[place]
        self._replay.begin(index)
        if not self._replay.is_deleted(index):
            return compute()
        kept, left_out = pair[addition.stream], pair[1 - addition.stream]
        value = kept.as_added()
        if left_out.tensor is not None:
            value = value.to(torch.promote_types(value.dtype, left_out.tensor.dtype))
        # What follows may write to the sum, and must not write to the stream.
        return value.clone()


def _copied(output: Any) -> Any:
    return _pytree.tree_map_only(Tensor, Tensor.clone, output)
