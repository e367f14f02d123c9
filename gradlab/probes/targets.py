"""The targets of response probes: layers, and weights that functions apply outside a layer."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrizations

from gradlab.errors import UsageError
from gradlab.probes.selection import Selection, _each, _is_glob, _matching, _nothing, _words, refuse_flattened
from gradlab.probes.weights import WeightRow, layer_kind, weight_rows

SCRIPTED = "inside a scripted module, which runs no Python hooks"
GAIN = "a normalization's, which scales the signal element by element"
ADDED = "added to the signal or used in another way, not applied to it as a matrix by itself"
NOT_RUN = "not run"
LATER = "added to the model while the probe was attached"
REPLACED = "the module there took the place of the measured one while the probe was attached"


@dataclass(frozen=True, eq=False)
class Target:
    """A layer or weight whose response is measured.

    Attributes:
        name: The qualified name of the layer, or the name of the row of a weight that a function applies.
        kind: The kind of layer, as printed in tables.
        module: The module whose output is measured; None for a weight that a function applies.
        rows: The weights of the target.
        is_layer: Whether it is a weight layer, whose response may be the output of a normalization.
        shortcut: Whether it is the projection of a shortcut.
    """

    name: str
    kind: str
    module: nn.Module | None
    rows: list[WeightRow] = field(default_factory=list)
    is_layer: bool = True
    shortcut: bool = False


@dataclass(frozen=True)
class Targets:
    """The targets of a model.

    Attributes:
        chosen: The targets by name, in the order of registration.
        left_out: The reason why a row of `weight_rows` has no response, by name.
        asked: Whether the user selected the targets, so that one without a response is an error.
        every: The names of all rows of weights that the model had.
    """

    chosen: dict[str, Target]
    left_out: dict[str, str]
    asked: bool
    every: frozenset[str] = frozenset()


def added(model: nn.Module, targets: Targets) -> list[str]:
    """Return the names of the rows of weights that the model did not have when its targets were selected."""
    return [name for name in weight_rows(model) if name not in targets.every]


def replaced(model: nn.Module, targets: Targets) -> list[str]:
    """Return the names of the layers in whose place the model has another module than when they were selected."""
    modules = dict(model.named_modules())
    return [
        name
        for name, target in targets.chosen.items()
        if target.module is not None and modules.get(name, target.module) is not target.module
    ]


def is_normalization(module: nn.Module) -> bool:
    """Return whether a module normalizes: one of torch's classes, or a leaf without a matrix and named after `norm`."""
    if isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm | nn.LocalResponseNorm):
        return True
    if "norm" not in type(module).__name__.lower() or any(module.children()):
        return False
    if type(module).__module__ == parametrizations.__name__:
        # It normalizes a weight.
        return False
    return not any(sum(size > 1 for size in p.shape) > 1 for p in module.parameters(recurse=False))


def response_targets(model: nn.Module, layers: Selection = None) -> Targets:
    """Select the targets of a model.

    Args:
        model: Any module.
        layers: The selection. None selects every weight that is applied to a signal: layers with a weight, the
            projections of `nn.MultiheadAttention`, and parameters of two or more dimensions that functions apply; or
            every module with parameters, if none has two dimensions. A glob selects among these; a name, class or
            predicate selects modules, which are measured by their own outputs.

    Raises:
        UsageError: If nothing is selected, no module or weight has a given name, or parameters are flattened.
    """
    refuse_flattened(model)
    everything, left_out = _weights(model)
    if layers is None:
        chosen = everything or _modules_with_parameters(model)
        if not chosen:
            _nothing(model, "a weight", ())
        return Targets(chosen, left_out, asked=False, every=frozenset(weight_rows(model)))
    modules = {name: module for name, module in model.named_modules() if name or name in everything}
    found: dict[str, Target] = {}
    for wanted in _each(layers):
        if not isinstance(wanted, str):
            names = _matching(modules, wanted)
        elif _is_glob(wanted):
            names = fnmatch.filter(everything, wanted)
        else:
            names = [wanted] if wanted in everything or wanted in modules else []
            if not names:
                _nothing(model, repr(wanted), everything or modules)
        for name in names:
            found[name] = everything.get(name) or _as_it_is(name, modules[name])
    if not found:
        _nothing(model, _words(layers), everything or modules)
    for name, target in found.items():
        if isinstance(target.module, torch.jit.ScriptModule):
            raise UsageError(f"{name} is scripted and runs no Python hooks: probe the module it was scripted from")
    order = {name: place for place, name in enumerate([*modules, *everything])}
    # The root's own parameters come first.
    order |= {name: order.get(t.rows[0].module, -1) for name, t in everything.items() if t.module is None and t.rows}
    chosen = dict(sorted(found.items(), key=lambda item: order.get(item[0], 0)))
    return Targets(chosen, left_out, asked=True, every=frozenset(weight_rows(model)))


def _weights(model: nn.Module) -> tuple[dict[str, Target], dict[str, str]]:
    """Return every weight that may be applied, and the reasons why others are not."""
    modules = dict(model.named_modules(remove_duplicate=False))
    scripted = [name for name, module in modules.items() if isinstance(module, torch.jit.ScriptModule)]
    found: dict[str, Target] = {}
    left_out: dict[str, str] = {}
    rows = weight_rows(model).values()
    above = _above({row.module for row in rows})
    for row in rows:
        module = modules[row.module]
        if any(row.module == name or row.module.startswith(f"{name}.") for name in scripted):
            left_out[row.name] = SCRIPTED
        elif is_normalization(module):
            left_out[row.name] = GAIN
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            target = found.setdefault(row.module, Target(row.module, row.kind, module))
            target.rows.append(row)
        elif row.name == row.module:
            found[row.name] = Target(row.name, row.kind, module, [row], row.module not in above, row.shortcut)
        else:
            found[row.name] = Target(row.name, row.kind, None, [row])
    return found, left_out


def _above(names: set[str]) -> set[str]:
    """Return the names of the modules that contain the given ones."""
    parts = [name.split(".") for name in names if name]
    return {".".join(each[:length]) for each in parts for length in range(len(each))}


def _modules_with_parameters(model: nn.Module) -> dict[str, Target]:
    return {
        name: _as_it_is(name, module)
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, torch.jit.ScriptModule)
    }


def _as_it_is(name: str, module: nn.Module) -> Target:
    return Target(name, layer_kind(module), module, is_layer=False)
