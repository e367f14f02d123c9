"""Finds the response of each layer while the model runs, with no list of names."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gradlab.errors import GradlabError
from gradlab.probes.hooks import Hook, in_backward


class Site(NamedTuple):
    """One call of one layer in a forward pass: a layer called n times is n sites.

    Attributes:
        layer: Qualified module name.
        call: 1-based number of the call within one forward pass of the model.
    """

    layer: str
    call: int


def is_normalization(module: nn.Module) -> bool:
    """Whether a module normalizes: torch's own classes, and leaf modules whose class name says so."""
    if isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm | nn.LocalResponseNorm):
        return True
    return "norm" in type(module).__name__.lower() and not any(module.children())


class ResponseFinder:
    """Calls back with the response of each selected layer, at the moment it exists.

    The response of a convolution or linear layer is the output of the normalization whose input *is* the
    layer's output, and the layer's own output where there is none (He et al. 2015, §4.2: "after BN and
    before other nonlinearity"). A normalization module that holds its activation inside, as timm's do,
    gives its response as the input of the first module it calls. Any other module gives its output.

    Until the first normalization has shown itself, a layer's own output is observed, and discarded when
    it turns out to be normalized; from then on only the normalized output is.

    Args:
        model: The root module; call numbers start anew with each of its forward passes.
        layers: The selected modules by name.
        observe: Called with a site and its response. It must reduce the tensor at once: what follows in
            the network may overwrite it.
        discard: Called with a site whose observations so far were not the response.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, nn.Module],
        observe: Callable[[Site, Tensor], None],
        discard: Callable[[Site], None],
    ) -> None:
        self.model, self.layers = model, layers
        self.observe, self.discard = observe, discard
        self.norms: dict[Site, str] = {}
        self.unseen: dict[Site, int] = {}
        self._calls: dict[str, int] = {}
        self._running = False
        self.outside: set[str] = set()
        self._pending: dict[int, tuple[weakref.ref[Tensor], int | None, Site]] = {}
        self._inside: Site | None = None

    def attach(self, stack: ExitStack) -> None:
        """Register all hooks, their removal on the stack."""
        enter = stack.enter_context
        enter(self.model.register_forward_pre_hook(Hook(self._start)))
        enter(self.model.register_forward_hook(Hook(self._stop), always_call=True))
        for name, module in self.layers.items():
            enter(module.register_forward_hook(Hook(self._after_layer(name))))
        for name, module in self.model.named_modules():
            if name not in self.layers and is_normalization(module):
                self._attach_norm(name, module, stack)
            elif getattr(module, "inplace", False) is True:
                enter(module.register_forward_pre_hook(Hook(self._before_in_place)))

    def _attach_norm(self, name: str, module: nn.Module, stack: ExitStack) -> None:
        inner = list(module.children())
        if inner:
            before = Hook(self._before_fused_norm(name))
            stack.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
            for child in inner:
                stack.enter_context(child.register_forward_pre_hook(Hook(self._inside_norm)))
        after = Hook(self._after_norm(name, fused=bool(inner)))
        stack.enter_context(module.register_forward_hook(after, with_kwargs=True))

    def _start(self, module: nn.Module, args: Any) -> None:
        if not in_backward():
            self._calls.clear()
            self._forget_pending()
            self._running = True

    def _stop(self, module: nn.Module, args: Any, output: Any) -> None:
        if not in_backward():
            self._running = False
            self._forget_pending()

    def _forget_pending(self) -> None:
        for *_, site in self._pending.values():
            if site in self.norms:
                self.unseen[site] = self.unseen.get(site, 0) + 1
        self._pending.clear()
        self._inside = None

    def _after_layer(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if in_backward():
                return
            # A submodule called on its own, outside the root's forward, is always its first call.
            call = self._calls.get(name, 0) + 1 if self._running else 1
            self._calls[name] = call
            if not self._running:
                self.outside.add(name)
            site = Site(name, call)
            tensor = output_tensor(name, output)
            self._pending[id(tensor)] = weakref.ref(tensor), _version(tensor), site
            if site not in self.norms:
                self.observe(site, tensor)

        return hook

    def _after_norm(self, name: str, fused: bool) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if fused:
                site, self._inside = self._inside, None
            else:
                site = self._claim(name, args, kwargs)
            if site is not None:
                self.observe(site, output)

        return hook

    def _before_fused_norm(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._inside = self._claim(name, args, kwargs)

        return hook

    def _inside_norm(self, module: nn.Module, args: Any) -> None:
        if self._inside is not None and args:
            site, self._inside = self._inside, None
            self.observe(site, args[0])

    def _before_in_place(self, module: nn.Module, args: Any) -> None:
        # The same tensor comes out with other values: it is the layer's output no longer.
        if args:
            self._pending.pop(id(args[0]), None)

    def _claim(self, name: str, args: Any, kwargs: Any) -> Site | None:
        """The site whose output is this normalization's input, if there is one."""
        source = cast(Tensor, args[0] if args else next(iter(kwargs.values()), None))
        if id(source) not in self._pending or in_backward():
            return None
        reference, version, site = self._pending.pop(id(source))
        if reference() is not source or version != _version(source):
            return None
        if site not in self.norms:
            self.discard(site)
            self.norms[site] = name
        return site


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; inference tensors do not tell."""
    return None if tensor.is_inference() else tensor._version


def output_tensor(name: str, output: Any) -> Tensor:
    """What a layer returns, or the first part of it, which must be a floating-point tensor."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        raise GradlabError(
            f"layer {name} returns {type(output).__name__}, not a floating-point tensor: select another layer"
        )
    return output
