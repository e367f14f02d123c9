"""Detection of a model's responses while it runs, without a list of layer names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError
from gradlab.probes.applications import Applications
from gradlab.probes.direct_calls import DirectCalls
from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.identity import Remembered
from gradlab.probes.kept import Kept
from gradlab.probes.listening import Listening
from gradlab.probes.outputs import describe, measurable, output_tensor
from gradlab.probes.passes import Passes, unseen
from gradlab.probes.recording import refuse_proxy
from gradlab.probes.response_calls import prepare
from gradlab.probes.sites import Observer, Part, Pending, Site
from gradlab.probes.targets import Target, Targets, is_normalization
from gradlab.probes.weights import WeightRow
from gradlab.stats.moment_rows import Adder

__all__ = ["Observer", "Part", "ResponseFinder", "Site", "is_normalization", "output_tensor"]

_FUSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""Modules that run as one fused function in eval mode, unless a function mode is active."""


class ResponseFinder:
    """Passes the response of each target to an observer as soon as it exists.

    The response of a weight layer is the output of the normalization whose input *is* the layer's output, or the
    layer's own output if there is none (He et al. 2015, §4.2: "after BN and before other nonlinearity"). An output is
    what calling the module returns, after all hooks of other users; the input of a normalization is what it is called
    with, before such hooks. If a normalization module contains its activation, as in timm, the response is the input
    of the first module that it calls. The response of any other module is its output. The result of a function of a
    signal and a weight, outside the layer that owns the weight, is a further call of that layer.

    Until the first normalization is seen, a layer's own output is observed, and discarded if it turns out to be
    normalized; from then on only the normalized output is observed.

    Args:
        model: The root module.
        targets: The targets to measure.
        observer: The object that receives the responses.
        blocks: Modules whose outputs are also passed on, as outputs of blocks.
        begin: A function called before each pass.
        adder: A function that returns what is to receive the responses of a site that the observer has observed, in
            its place, if it can. With it, passes after the first one run without hooks.

    Attributes:
        norms: The name of each site's normalization module, if it has one; empty for a function.
        unseen: The number of calls of a site that were not normalized although its others were.
        silent: The reason why a target that ran had nothing to measure.
        called: Names of the targets that ran.
        recomputed: Names of the modules that ran again in a backward pass.
        by_functions: Whether functions have applied weights or normalized responses, or may have, outside of modules.
        places: The target of the layer of each site.
        applications: The weights that functions applied.
        listening: In which passes functions are looked at.
        pending: The outputs that may still turn out to be the input of a normalization.
        direct: The calls that are made without hooks.
        adders: What receives responses in place of the observer, and returns whether it could.
        own: How often the response of a site was taken from the layer's own output.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Targets,
        observer: Observer,
        blocks: dict[str, nn.Module] | None = None,
        begin: Callable[[], None] = lambda: None,
        adder: Callable[[Site], Adder | None] | None = None,
    ) -> None:
        self.model, self.targets, self.observer, self._begin_observer = model, targets, observer, begin
        self.blocks = blocks or {}
        self.norms: dict[Site, str] = {}
        self.unseen: dict[Site, int] = {}
        self.silent: dict[str, str] = {}
        self.called: set[str] = set()
        self.recomputed: set[str] = set()
        self.places: dict[str, Target] = {}
        self.pending: Remembered[Pending] = Remembered()
        self.adders: dict[Site, Adder] = {}
        self._adder = adder
        self._claimed: dict[str, Site | None] = {}
        self.own: Counter[Site] = Counter()
        self._kept = Kept(self.norms, self.unseen, self.silent, self.called, self.own, self.pending.table)
        rows = [row for target in targets.chosen.values() for row in target.rows]
        self.applications = Applications(dict(model.named_modules(remove_duplicate=False)), rows, self)
        self.listening = Listening(model, self.applications, self.is_called, lambda: self.passes.go_on())
        self._targets = {row.name: target for target in targets.chosen.values() for row in target.rows}
        self.by_functions = False
        self._name: str | None = None
        self._ran = False
        self._normalizes = any(is_normalization(module) for module in model.modules())
        self._fuses = any(isinstance(module, _FUSING) for module in model.modules())

    def attach(self, stack: ExitStack) -> None:
        """Register all hooks, and their removal on the stack."""
        own = {name: target.module for name, target in self.targets.chosen.items() if target.module is not None}
        modules = dict(self.model.named_modules())
        measured = {*own, *self.blocks, *(row.module for t in self.targets.chosen.values() for row in t.rows)}
        above = {".".join(name.split(".")[:length]) for name in measured for length in range(1, name.count(".") + 1)}
        norms = {name for name, module in modules.items() if is_normalization(module) and not _is_scripted(module)}
        followed = {name: modules[name] for name in modules if name and name in measured | above}
        self.passes = Passes(self.model, followed, self._begin, self._end)
        self.passes.recomputed = self.recomputed
        self.passes.attach(stack, {name: self.after_module(name) for name in {*own, *self.blocks}})
        stack.callback(self.listening.stop)
        for name in norms:
            self._attach_norm(name, modules[name], stack)
        changing = {
            module: stack.enter_context(module.register_forward_pre_hook(Hook(self.before_in_place)))
            for module in modules.values()
            if getattr(module, "inplace", False) is True and not _is_scripted(module)
        }
        self.direct = DirectCalls()
        stack.callback(self.direct.stop)
        prepare(self, {modules[name]: name for name in norms}, changing, self._adder is not None)

    def _attach_norm(self, name: str, module: nn.Module, stack: ExitStack) -> None:
        before = Hook(self._before_norm(name))
        self.passes.keep_first(stack, module, module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
        for child in (child for child in module.children() if not _is_scripted(child)):
            inside = Hook(self._inside_norm(name))
            self.passes.keep_first(stack, child, child.register_forward_pre_hook(inside, prepend=True))
        self.passes.keep_last(stack, module, module.register_forward_hook(Hook(self._after_norm(name))))

    def _begin(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._settle(self.pending.take_all() if not name else self.pending.take_gone())
        self._kept.keep()
        self._name = name
        module = self.passes.modules[name]
        self.by_functions = self._fuses and not module.training
        self.listening.begin(name, module, args, kwargs)
        if not name and (self._ran or self._adder is None):
            self.direct.start()
        else:
            self.direct.stop()
        self._begin_observer()

    def _end(self, whole: bool) -> None:
        unclear = {row.name for row in self.applications.rows if self._targets[row.name].module is None}
        self.by_functions |= not unclear <= self.applications.seen
        self.listening.stop()
        if not whole:
            self.pending.take_all()
            self._kept.restore()
        elif self._name == "":
            self._settle(self.pending.take_all())
            self._ran = True
        self._claimed.clear()
        # Between passes others may compile, export or copy parts of the model, which then are as they were.
        self.direct.stop()
        self.observer.finish(whole)
        # Last, since users may have its warning raised.
        self.listening.end(whole, self.by_functions)

    def _settle(self, unclaimed: list[Pending]) -> None:
        for site, _ in unclaimed:
            if site in self.norms:
                self.unseen[site] = self.unseen.get(site, 0) + 1

    def after_module(self, name: str) -> Callable[[nn.Module, Any], None]:
        """Return what is to be called with a module and its output after each of its calls."""
        target = self.targets.chosen.get(name)

        def after(module: nn.Module, output: Any) -> None:
            call = self.passes.count(name)
            parts = measurable(output)
            self.called.add(name)
            if not parts:
                self._say_silent(name, output)
            for place, tensor in parts:
                if target is not None:
                    self.places.setdefault(name + place, target)
                    self._found(Site(name + place, call), tensor, None, target.is_layer)
                if name in self.blocks and not place:
                    self._observe(Site(name, call, block=True), tensor, None)

        return after

    def _say_silent(self, name: str, output: Any) -> None:
        refuse_proxy(output)
        if self.targets.asked or name not in self.targets.chosen:
            raise GradlabError(
                f"layer {name} returns {describe(output)}, not a floating-point tensor: select another layer"
            )
        self.silent.setdefault(name, f"returns {describe(output)}, not a floating-point tensor")

    def _found(self, site: Site, tensor: Tensor, part: Part | None, is_layer: bool) -> None:
        observation = None
        if site not in self.norms:
            observation = self._observe(site, tensor, part)
            self.own[site] += 1
        if is_layer and part is None:
            self.pending.put(tensor, Pending(site, observation))

    def _observe(self, site: Site, tensor: Tensor, part: Part | None) -> object:
        if self.direct.active and self._adder is not None and part is None:
            add = self.adders.get(site) or self._adder(site)
            if add is not None:
                self.adders[site] = add
                if type(tensor) is Tensor and not tensor.is_neg() and add(tensor):
                    return None
        # The observer's computations are not part of the model.
        with unseen():
            observation = self.observer.observe(site, tensor, part)
        if not self.passes.under_way:
            self.observer.finish(True)
        return observation

    def received(self, rows: Iterable[WeightRow], name: str) -> None:
        """See `Listener`."""
        self.listening.received(rows, name)

    def applied(self, row: WeightRow, output: Tensor, part: Part | None) -> None:
        """See `Listener`."""
        self.by_functions = True
        target = self._targets[row.name]
        parts = measurable(output)
        if parts and not in_backward():
            self.called.add(target.name)
            self.places[target.name] = target
            self._found(Site(target.name, self.passes.count(target.name)), output, part, target.is_layer)

    def is_called(self, row: WeightRow) -> bool:
        """See `Listener`."""
        target = self._targets[row.name]
        return target.module is not None and row.module == target.name and self.passes.is_running(target.name)

    def normalizing(self, source: Tensor) -> Callable[[Tensor], None] | None:
        """See `Listener`."""
        site = None if in_backward() else self.claim("", source)
        if site is None:
            return None
        self.by_functions = True
        return lambda output: self.observe_norm(site, output)

    def overwriting(self, target: Tensor) -> None:
        """See `Listener`."""
        # Without a normalization that could receive it, this does not matter.
        self.by_functions |= self.pending.overwrite(target) and self._normalizes

    def _before_norm(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            source = args[0] if args else next(iter(kwargs.values()), None)
            if isinstance(source, Tensor) and not in_backward():
                self.passes.forget_ended()
                with unseen():
                    self._claimed[name] = self.claim(name, source)
            else:
                self._claimed[name] = None

        return hook

    def _inside_norm(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and (site := self._claimed.pop(name, None)) is not None:
                self.observe_norm(site, args[0])

        return hook

    def _after_norm(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if (site := self._claimed.pop(name, None)) is not None:
                if any(map(_is_scripted, module.children())):
                    raise GradlabError(
                        f"{site.layer}: its normalization {name} may call a scripted module, which runs no Python "
                        "hooks, so that the response before it cannot be told: probe the module that was scripted, or "
                        "choose other layers with layers="
                    )
                self.observe_norm(site, output)

        return hook

    def observe_norm(self, site: Site, output: Any) -> None:
        """Pass on the output of the normalization that has received a site's output."""
        with unseen():
            for _, tensor in measurable(output)[:1]:
                self._observe(site, tensor, None)

    def before_in_place(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Forget a tensor that is returned with other values, so that it is no longer a layer's output."""
        if args and isinstance(args[0], Tensor) and args[0].is_inference():
            self.pending.overwrite(args[0])

    def claim(self, name: str, source: Tensor) -> Site | None:
        """Return the site whose output is the input of a normalization, or None."""
        found = self.pending.take(source)
        if found is None:
            return None
        if found.site not in self.norms:
            self.observer.discard(found.site, found.observation)
            self.adders.pop(found.site, None)
            self.norms[found.site] = name
            if earlier := self.own[found.site] - 1:
                self.unseen[found.site] = self.unseen.get(found.site, 0) + earlier
        return found.site


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)
