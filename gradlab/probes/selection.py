"""Which layers of a model a probe measures."""

import fnmatch
from collections.abc import Callable

from torch import nn
from torch.nn.modules.conv import _ConvNd

from gradlab.errors import UsageError
from gradlab.models import is_projection

Selection = str | type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[str, nn.Module], bool] | None
"""A glob (or several, comma-separated), a class, a predicate of name and module, or None for the default."""


def select_layers(model: nn.Module, layers: Selection = None) -> dict[str, nn.Module]:
    """Choose layers by glob, class or predicate; by name, in the order in which the model registers them.

    Args:
        model: Any module.
        layers: None selects every convolution but the projections of shortcuts, or every linear layer
            where there is no convolution. A glob selects convolutions and linear layers (`*` crosses
            dots); a name without wildcards selects that very module, whatever it is.

    Raises:
        UsageError: When nothing is selected; it shows names that the model does have.
    """
    modules: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if name}
    weighted: dict[str, nn.Module] = {n: m for n, m in modules.items() if isinstance(m, _ConvNd | nn.Linear)}
    chosen: dict[str, nn.Module]
    if layers is None:
        body: dict[str, nn.Module] = {
            n: m for n, m in weighted.items() if isinstance(m, _ConvNd) and not is_projection(n, m)
        }
        chosen = body or weighted
        asked = "a convolution or linear layer"
    elif isinstance(layers, str):
        globs = [glob.strip() for glob in layers.split(",")]
        chosen = {
            name: m
            for name, m in modules.items()
            if name in globs or (name in weighted and any(fnmatch.fnmatchcase(name, g) for g in globs))
        }
        asked = f"{layers!r}"
    elif isinstance(layers, type | tuple):
        chosen = {name: m for name, m in modules.items() if isinstance(m, layers)}
        asked = f"the class {getattr(layers, '__name__', layers)}"
    else:
        chosen = {name: m for name, m in modules.items() if layers(name, m)}
        asked = "the given predicate"
    if not chosen:
        names = list(weighted or modules)
        shown = ", ".join(names[:6]) + (f", … ({len(names)} in all)" if len(names) > 6 else "")
        raise UsageError(f"no layer of {type(model).__name__} matches {asked}; it has {shown or 'no layers'}")
    return chosen


def layer_kind(module: nn.Module) -> str:
    """The kind of a layer as tables print it: `conv3x3`, `linear`, else its class name in lower case."""
    if isinstance(module, _ConvNd):
        transposed = "transposed-" if module.transposed else ""
        return f"{transposed}conv{'x'.join(map(str, module.kernel_size))}"
    return "linear" if isinstance(module, nn.Linear) else type(module).__name__.lower()


def layer_stride(module: nn.Module) -> int:
    """The stride of a convolution's first dimension; 1 for anything else."""
    return int(module.stride[0]) if isinstance(module, _ConvNd) else 1


def select_weight_layers(model: nn.Module, layers: Selection = None) -> dict[str, nn.Module]:
    """Choose the layers whose gradients are measured: as `select_layers`, but for another default.

    Args:
        model: Any module.
        layers: None selects the layers that count towards a network's depth, convolutions and linear layers but
            the projections of shortcuts; every module with parameters of its own where there are none.

    Raises:
        UsageError: When nothing is selected, or the model has no parameters.
    """
    if next(model.parameters(), None) is None:
        raise UsageError(f"{type(model).__name__} has no parameters: there is no gradient to measure")
    if layers is not None:
        return select_layers(model, layers)
    modules: dict[str, nn.Module] = dict(model.named_modules())
    weighted: dict[str, nn.Module] = {
        name: module
        for name, module in modules.items()
        if isinstance(module, _ConvNd | nn.Linear) and not is_projection(name, module)
    }
    return weighted or {n: m for n, m in modules.items() if next(m.parameters(recurse=False), None) is not None}


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The building blocks of a network, by name: what a row of residual blocks consists of.

    A block is an element of an `nn.Sequential` or `nn.ModuleList` in which at least two convolutions or linear
    layers lie, and no smaller such element.
    """
    elements = {
        f"{name}.{child}".removeprefix("."): module
        for name, row in model.named_modules()
        if isinstance(row, nn.Sequential | nn.ModuleList)
        for child, module in row.named_children()
        if sum(isinstance(m, _ConvNd | nn.Linear) for m in module.modules()) >= 2
    }
    return {n: m for n, m in elements.items() if not any(other.startswith(f"{n}.") for other in elements)}
