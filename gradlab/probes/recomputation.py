"""Modules that activation checkpointing runs again in a backward pass which a probe makes besides that of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import checkpoint
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from gradlab.errors import GradlabError

_ONCE = getattr(checkpoint, "_CachedTorchDispatchMode", ())
"""What selective checkpointing recomputes in: it hands out what it has saved, once."""


@contextmanager
def additional_pass(what: str, *, follows: bool = True) -> Iterator[None]:
    """A context for such a pass, after which the buffers of all modules are as they were.

    Running statistics, for one, would otherwise take the same batch in once more.

    Args:
        what: What is measured by it.
        follows: Whether another pass through the same graph follows.

    Raises:
        GradlabError: Within the pass, if another follows where only one is possible.
    """
    kept: list[tuple[nn.Module, dict[str, Tensor | None], dict[str, Tensor]]] = []

    def keep(module: nn.Module, args: object) -> None:
        if follows and any(isinstance(mode, _ONCE) for mode in _get_current_dispatch_mode_stack()):
            raise GradlabError(
                f"{what} cannot be measured through selective activation checkpointing, which allows one backward pass "
                "alone: call checkpoint without context_fn, or measure without checkpointing"
            )
        if module._buffers:
            copies = {name: buffer.detach().clone() for name, buffer in module._buffers.items() if buffer is not None}
            kept.append((module, {**module._buffers}, copies))

    handle = register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
        # Of a module that ran several times, the first copies are those from before.
        for module, buffers, copies in reversed(kept):
            module._buffers.update(buffers)
            for name, before in copies.items():
                # Without a trace in the tensor's version, which what autograd has saved is compared with.
                module._buffers[name].data.copy_(before)  # type: ignore[union-attr]
