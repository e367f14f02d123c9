"""What is done around the calls of modules without hooks: the same as `Passes` and the finder do by hooks."""

from __future__ import annotations

from collections import Counter
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradlab.probes.hooks import in_backward
from gradlab.probes.muted_calls import is_own_leaf, muted
from gradlab.probes.sites import Pending, Site

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from gradlab.probes.direct_calls import Call
    from gradlab.probes.finder import ResponseFinder


def prepare(
    finder: ResponseFinder, norms: dict[nn.Module, str], changing: dict[nn.Module, RemovableHandle], hookless: bool
) -> None:
    """Make the functions that take the place of hooks, for modules whose hooks have one purpose.

    Torch's own layers are called out of sight of the function mode, whether they have hooks or not.

    Args:
        finder: The finder.
        norms: The names of the normalizations.
        changing: The hooks of modules that change their input.
        hookless: Whether hooks are replaced.
    """
    followed = {module: name for name, module in finder.passes.modules.items() if name}
    inner = {child for norm in norms for child in norm.children()}
    purposes = Counter([*followed, *norms, *changing, *inner, *(norm for norm in norms if any(norm.children()))])
    kept = finder.passes.kept()
    for module in (module for module in finder.model.modules() if module is not finder.model):
        first, last = kept.get(module, ([], []))
        if not hookless or purposes[module] != 1 or module in inner:
            first, last = [], []
            if not finder.applications.rows or not is_own_leaf(module):
                continue
            call = muted(module, finder.applications, module._call_impl)
        elif module in norms:
            call = norm_call(finder, norms[module], module)
        elif module in changing:
            call, first = in_place_call(finder, module), [changing[module]]
        elif (name := followed[module]) in finder.targets.chosen or name in finder.blocks:
            call = layer_call(finder, name, module)
        else:
            call = outer_call(finder, name, module)
        finder.direct.add(module, call, first, last)


def layer_call(finder: ResponseFinder, name: str, module: nn.Module) -> Call:
    """Return a function that calls a layer and notes its output.

    Args:
        finder: The finder.
        name: The name of the layer.
        module: The layer.
    """
    plain, after, graph_task = module._call_impl, finder.after_module(name), torch._C._current_graph_task_id
    passes, pending, norms, adders, own = finder.passes, finder.pending, finder.norms, finder.adders, finder.own
    is_nested, running, counts = passes.nesting(), passes.calls, passes.counts
    target = finder.targets.chosen.get(name)
    is_layer = target is not None and target.is_layer
    known: list[Pending] = []

    def around(call: Call, *args: Any, **kwargs: Any) -> Any:
        if graph_task() != -1 or get_ident() != passes.thread or not is_nested():
            return _apart(finder, name, plain, args, kwargs)
        output = call(*args, **kwargs)
        if not running:
            # The probe was detached during the call.
            return output
        number = counts.get(name, 0)
        while number >= len(known):
            known.append(Pending(Site(name, len(known) + 1), None))
        if type(output) is Tensor and output.is_floating_point():
            site = known[number].site
            if site in norms:
                counts[name] = number + 1
                pending.hold(output, known[number])
                return output
            if (add := adders.get(site)) is not None and not output.is_neg() and add(output):
                counts[name] = number + 1
                own[site] += 1
                if is_layer:
                    # To hold it would keep its memory from the functions that follow, which would find less in caches.
                    pending.note(output, known[number])
                return output
        after(module, output)
        return output

    def seen(*args: Any, **kwargs: Any) -> Any:
        return passes.call(name, plain, args, kwargs)

    return muted(module, finder.applications, seen, around)


def norm_call(finder: ResponseFinder, name: str, module: nn.Module) -> Call:
    """Return a function that calls a normalization and observes its output, if its input is that of a layer.

    Args:
        finder: The finder.
        name: The name of the normalization.
        module: The normalization.
    """
    plain, graph_task, running = module._call_impl, torch._C._current_graph_task_id, finder.passes.calls
    claim, adders, observe, take_held = finder.claim, finder.adders, finder.observe_norm, finder.pending.take_held

    def around(call: Call, *args: Any, **kwargs: Any) -> Any:
        source = args[0] if args else next(iter(kwargs.values()), None)
        if not running or not isinstance(source, Tensor) or graph_task() != -1:
            return _apart(finder, name, plain, args, kwargs)
        held = take_held(source)
        site = claim(name, source) if held is None else held.site
        output = call(*args, **kwargs)
        if site is not None and running:
            add = adders.get(site)
            if add is None or type(output) is not Tensor or output.is_neg() or not add(output):
                observe(site, output)
        return output

    return muted(module, finder.applications, plain, around)


def in_place_call(finder: ResponseFinder, module: nn.Module) -> Call:
    """Return a function that calls a module which changes its input, and forgets what this was before.

    Args:
        finder: The finder.
        module: The module.
    """
    before = finder.before_in_place

    def around(call: Call, *args: Any, **kwargs: Any) -> Any:
        before(module, args)
        return call(*args, **kwargs)

    return muted(module, finder.applications, module._call_impl, around)


def outer_call(finder: ResponseFinder, name: str, module: nn.Module) -> Call:
    """Return a function that calls a module which has layers inside and is not measured itself.

    Args:
        finder: The finder.
        name: The name of the module.
        module: The module.
    """
    call, passes, is_nested = module._call_impl, finder.passes, finder.passes.nesting()

    def called(*args: Any, **kwargs: Any) -> Any:
        if get_ident() == passes.thread and is_nested():
            return call(*args, **kwargs)
        return _apart(finder, name, call, args, kwargs)

    return called


def _apart(finder: ResponseFinder, name: str, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a module that is not called by the pass under way, with its hooks if it is called on its own."""
    if in_backward():
        finder.passes.recomputed.add(name)
    else:
        finder.passes.forget_ended()
        if finder.passes.under_way:
            finder.passes.check_thread()
        else:
            finder.direct.stop()
    return call(*args, **kwargs)
