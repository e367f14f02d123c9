"""What is known of a network: where its weights are from, and what it says of its inputs.

A module of somebody else may have attributes of the same names, such as a part that it calls `network`: only values of
the right type are facts, and nothing of its own is overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from gradlab.normalization import Normalization

if TYPE_CHECKING:
    from gradlab.models import NetworkDescription

T = TypeVar("T")

_HIDDEN = "_gradlab_facts"
"""The attribute for facts whose names a module has given to something of its own."""


@dataclass(frozen=True)
class Network:
    """The description of a network and the origin of its weights.

    Attributes:
        name: The name of the network, without its weights.
        weights: The weights: `init:SEED`, `trained`, `hub` or a path.
        label: The name in tables and titles: name and weights, with a path shortened to its file name.
        trained: Whether the weights were trained.
        recipe: The recipe by which the weights were made; None if it is unknown.
        normalization: The normalization with which the weights were trained; None if it is unknown.
        digest: The sha256 of parameters and buffers.
        file_sha256: The sha256 of the file from which the weights were read, if any.
        weights_key: The keys of the file under which the weights were found, joined by dots; None if the file contains
            nothing else.
        classes: The number of outputs of the classifier, if the file differs from the network's default.
        note: A sentence on the choice among several state dicts of the file, if there was one.
        description: The properties of the architecture: family, depth, kind, unit and others.
    """

    name: str
    weights: str
    label: str
    trained: bool
    recipe: str | None
    normalization: str | None
    digest: str
    file_sha256: str | None = None
    weights_key: str | None = None
    classes: int | None = None
    note: str | None = None
    description: NetworkDescription | None = None

    @property
    def weights_label(self) -> str:
        """The weights as tables show them: the label without the name."""
        return self.label[len(self.name) + 1 :]

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values, for a record."""
        described = {} if self.description is None else {"description": self.description.to_dict()}
        return {**asdict(self), "weights_label": self.weights_label, **described}


def remember(model: nn.Module, network: Network) -> None:
    """Give a model the attributes `name`, `network` and `normalization`, where it has none of its own."""
    spec = network.normalization
    facts = {
        "name": network.label,
        "network": network,
        "normalization": None if spec is None else Normalization(spec),
    }
    hidden = {name: value for name, value in facts.items() if name in dir(model)}
    for name in facts.keys() - hidden.keys():
        setattr(model, name, facts[name])
    setattr(model, _HIDDEN, hidden)


def network_of(model: nn.Module) -> Network | None:
    """The description of a network from `gl.build`; None of any other."""
    return _fact(model, "network", Network)


def architecture_of(model: nn.Module) -> NetworkDescription | None:
    """The properties of the architecture of a network from `gl.build`; None of any other."""
    network = network_of(model)
    return None if network is None else network.description


def name_of(model: object) -> str:
    """A model's name from `gl.build`, or one that it has as a text, or else that of its class."""
    return _fact(model, "name", str) or type(model).__name__


def normalization_of(model: nn.Module | None) -> Normalization | None:
    """The normalization of the images that a model was trained with, where that is known."""
    return _fact(model, "normalization", Normalization)


def vocabulary_of(model: nn.Module | None) -> int | None:
    """How many tokens a model knows; None of a model that takes no tokens."""
    found = _fact(model, "vocabulary", int)
    return found if found is not None and _is_size(found) else None


def input_shape_of(model: nn.Module | None) -> tuple[int, ...] | None:
    """The shape of one input without the batch dimension, from `input_shape` or the configuration of a timm model."""
    settings = _attribute(model, "pretrained_cfg")
    own = getattr(settings, "get", lambda name: None)("input_size")
    for shape in (_attribute(model, "input_shape"), own):
        if isinstance(shape, tuple | list) and shape and all(map(_is_size, shape)):
            return tuple(shape)
    return None


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _fact(model: object, name: str, kind: type[T]) -> T | None:
    hidden: Mapping[str, object] = getattr(model, _HIDDEN, {})
    value = hidden[name] if name in hidden else _attribute(model, name)
    return value if isinstance(value, kind) else None


def _attribute(model: object, name: str) -> Any:
    try:
        return getattr(model, name, None)
    except Exception:  # a property of somebody else may raise anything
        return None
