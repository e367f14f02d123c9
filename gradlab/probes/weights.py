"""The weights of a model with modules of any class, and the parameters of each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from gradlab.errors import UsageError
from gradlab.models import is_projection

Parameters = Literal["weights", "all"]
"""The parameters of two or more dimensions, or all parameters."""

_ATTENTION = {"in_proj_weight": ("query", "key", "value"), "q_proj_weight": ("query",)}
_ATTENTION |= {"k_proj_weight": ("key",), "v_proj_weight": ("value",)}
"""The projections that each weight of `nn.MultiheadAttention` holds."""


@dataclass(frozen=True, eq=False)
class Part:
    """A parameter, or some of its rows.

    Attributes:
        name: The qualified name of the parameter.
        parameter: The parameter itself.
        rows: The range of its first dimension; None means the whole parameter.
    """

    name: str
    parameter: nn.Parameter
    rows: slice | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """Return the corresponding part of a tensor of the parameter's shape, such as its gradient."""
        return tensor if self.rows is None else tensor[self.rows]

    @property
    def key(self) -> tuple[int, str]:
        """A key that is equal for parts with the same elements, whichever row they belong to."""
        return id(self.parameter), str(self.rows)

    @property
    def numel(self) -> int:
        """The number of elements."""
        if self.rows is None or not self.parameter.numel():
            return self.parameter.numel()
        rows: int = self.rows.stop - self.rows.start
        return self.parameter.numel() // len(self.parameter) * rows


@dataclass(frozen=True, eq=False)
class WeightRow:
    """The weight of a layer, or a parameter, that is measured as one row.

    Attributes:
        name: The qualified name of the layer or parameter.
        kind: The kind of layer or parameter, as printed in tables.
        module: The qualified name of the module that owns it.
        parts: The trained parameters; for a computed weight, all parameters that it is computed from.
        shortcut: Whether it is the projection of a shortcut.
    """

    name: str
    kind: str
    module: str
    parts: list[Part]
    shortcut: bool = False

    @property
    def numel(self) -> int:
        """The number of elements."""
        return sum(part.numel for part in self.parts)


def weight_rows(model: nn.Module, parameters: Parameters = "weights") -> dict[str, WeightRow]:
    """Return the rows of a model by name, in the order of registration.

    The row of a layer's `weight` of two or more dimensions has the layer's name, and that of any other parameter its
    own qualified name; the packed weights of `nn.MultiheadAttention` have separate rows for query, key and value. A
    computed weight (parametrized, pruned, with the older weight or spectral norm) is represented by the parameters it
    is computed from. A parameter that two modules own has a row for each.

    Args:
        model: Any module.
        parameters: `weights` for parameters of two or more dimensions; `all` adds biases, gains and all others.

    Raises:
        UsageError: If a parameter has no shape yet, or `parameters` is neither `weights` nor `all`.
    """
    if parameters not in ("weights", "all"):
        raise UsageError(f"parameters is weights or all, not {parameters!r}")
    rows: dict[str, WeightRow] = {}
    for name, module in owning_modules(model):
        for attribute, parts in trained_parts(name, module).items():
            if is_weight(module, attribute, parts):
                for row in _weight(name, module, attribute, parts):
                    rows[row.name if row.name not in rows else _join(name, attribute)] = row
            elif parameters == "all":
                row = WeightRow(_join(name, attribute), _kind(attribute, module), name, parts)
                rows[row.name] = row
    return rows


def owning_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return every module by name, except those that only compute another module's weight."""
    inner = {
        id(part)
        for module in model.modules()
        if isinstance(computed := getattr(module, "parametrizations", None), nn.ModuleDict)
        for part in computed.modules()
    }
    return ((name, module) for name, module in model.named_modules() if id(module) not in inner)


def trained_parts(name: str, module: nn.Module) -> dict[str, list[Part]]:
    """Return the parameters behind each tensor that a module itself computes with, by the tensor's attribute name.

    Args:
        name: The qualified name of the module.
        module: Any module.

    Raises:
        UsageError: If a parameter has no shape yet.
    """
    own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    if lazy := next((key for key, parameter in own.items() if is_lazy(parameter)), None):
        raise UsageError(
            f"{_join(name, lazy)} has no shape before the model has run: run it once on an input, then make the probe"
        )
    found: dict[str, list[Part]] = {}
    for key, parameter in own.items():
        attribute = _computed_from(module, key) or key
        found.setdefault(attribute, []).append(Part(_join(name, key), parameter))
    parametrized = getattr(module, "parametrizations", None)
    if isinstance(parametrized, nn.ModuleDict):
        for attribute, made in parametrized.items():
            prefix = _join(name, f"parametrizations.{attribute}")
            found[attribute] = [Part(_join(prefix, key), p) for key, p in made.named_parameters()]
    return {attribute: parts for attribute, parts in found.items() if parts}


def is_weight(module: nn.Module, attribute: str, parts: list[Part]) -> bool:
    """Return whether a module's tensor, computed from the given parameters, has two or more dimensions."""
    computed = vars(module).get(attribute)
    if isinstance(computed, Tensor):
        return computed.ndim >= 2
    return max(part.parameter.ndim for part in parts) >= 2


def owns_weight(module: nn.Module) -> bool:
    """Return whether a module itself owns a parameter of two or more dimensions."""
    return any(is_weight(module, attribute, parts) for attribute, parts in trained_parts("", module).items())


def layer_kind(module: nn.Module) -> str:
    """Return the kind of a layer as printed in tables: `conv3x3`, `linear`, or its class name in lower case."""
    if isinstance(module, _ConvNd):
        transposed = "transposed-" if module.transposed else ""
        return f"{transposed}conv{'x'.join(map(str, module.kernel_size))}"
    name = module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
    # The Conv1D of Hugging Face's GPT-2 is a linear layer whose weight is transposed.
    return "linear" if isinstance(module, nn.Linear) or name == "Conv1D" else str(name).lower()


def _weight(name: str, module: nn.Module, attribute: str, parts: list[Part]) -> list[WeightRow]:
    """Return the row of a weight, or the rows into which a packed attention weight is split."""
    shortcut = is_projection(name, module)
    if attribute == "weight":
        return [WeightRow(name, layer_kind(module), name, parts, shortcut)]
    if isinstance(module, nn.MultiheadAttention) and attribute in _ATTENTION:
        uses, width = _ATTENTION[attribute], module.embed_dim
        if len(uses) == 1:
            return [WeightRow(_join(name, uses[0]), "linear", name, parts)]
        if all(part.parameter.ndim and len(part.parameter) == 3 * width for part in parts):
            thirds = [slice(place * width, (place + 1) * width) for place in range(3)]
            return [
                WeightRow(_join(name, use), "linear", name, [Part(part.name, part.parameter, third) for part in parts])
                for use, third in zip(uses, thirds, strict=True)
            ]
    recurrent = isinstance(module, nn.RNNBase | nn.RNNCellBase)
    return [WeightRow(_join(name, attribute), layer_kind(module) if recurrent else "parameter", name, parts)]


def _kind(attribute: str, module: nn.Module) -> str:
    """Return the kind of a parameter that is not a weight."""
    if "bias" in attribute:
        return "bias"
    return "gain" if attribute == "weight" and not isinstance(module, nn.PReLU) else "parameter"


def _computed_from(module: nn.Module, key: str) -> str | None:
    """Name the tensor that a hook computes from a parameter, as pruning does `weight` from `weight_orig`, or None."""
    attribute, _, suffix = key.rpartition("_")
    return attribute if suffix != "reverse" and isinstance(vars(module).get(attribute), Tensor) else None


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
