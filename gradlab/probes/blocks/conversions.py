"""Follows values through the hooks of `parallelize_module`, which turn inputs and outputs of modules into DTensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.probes.blocks.recorder import Recorder
from gradlab.probes.functions import tensors_in
from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.tensor_layout import LayoutWatch


class Conversions:
    """Tells the recorder of a pass which tensor a hook of another has made of a value.

    Args:
        model: The root module.
        recorder: The recorder of the pass.
        layout: Knows what ranks have apart of what split layers compute.
    """

    def __init__(self, model: nn.Module, recorder: Recorder, layout: LayoutWatch) -> None:
        self.model, self.recorder, self.layout = model, recorder, layout
        self._given: dict[str, list[Tensor]] = {}

    def attach(self, stack: ExitStack) -> None:
        """Register hooks on all modules, before and behind those of others, and their removal on the stack."""
        stack.callback(self._given.clear)
        for name, module in self.model.named_modules():
            before, computed = Hook(self._taken(name)), Hook(self._taken(name))
            stack.enter_context(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            stack.enter_context(module.register_forward_pre_hook(Hook(self._turned_input(name)), with_kwargs=True))
            stack.enter_context(module.register_forward_hook(computed, prepend=True, with_kwargs=True))
            stack.enter_context(module.register_forward_hook(Hook(self._turned_output(name))))

    def _taken(self, name: str) -> Callable[..., None]:
        """Keep a module's inputs, or its output, until other hooks have run."""

        def hook(module: nn.Module, args: Any, kwargs: Any, *output: Any) -> None:
            if not in_backward():
                self._given[name] = [*tensors_in(output or (*args, *kwargs.values()))]

        return hook

    def _turned_input(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._converted(name, [*tensors_in((*args, *kwargs.values()))])

        return hook

    def _turned_output(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            now = [*tensors_in((output,))]
            self._converted(name, now)
            if name in self.layout.modules and not in_backward():
                for tensor in now:
                    self.recorder.mark(tensor, self.layout.split(name, tensor))

        return hook

    def _converted(self, name: str, now: list[Tensor]) -> None:
        given = self._given.pop(name, [])
        if len(given) == len(now) and not in_backward():
            with torch._C.DisableTorchFunction(), torch.no_grad():
                for before, after in zip(given, now, strict=True):
                    if before is not after:
                        self.recorder.converted(before, after)
