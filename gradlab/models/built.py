"""Entries of the table of names whose networks are of one class, and what their names say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradlab.models.description import NamedNetwork, NetworkDescription
from gradlab.models.grammar import Depths, Option, Value, written
from gradlab.models.initialization import he_initialize, materialize

Refusals = Mapping[str, str]
"""What to say of a word that another family takes as an option; {word} stands for it."""


@dataclass(frozen=True)
class Family:
    """An entry of the table.

    Attributes:
        prefix: What stands before the depth.
        depths: The rule of depths, in words.
        read: Makes the architecture from the whole name, the depth and the options' values; raises `UsageError`.
        options: In the order in which a name has them.
        listed: The papers' own networks, which `gradlab models` lists.
        variants: One name a variant, which it lists too.
        refusals: What to say of words that are no options here.
        ordered: Whether options have to stand in their order.
    """

    prefix: str
    depths: str
    read: Callable[[str, int, dict[str, Any]], NamedNetwork]
    options: tuple[Option, ...]
    listed: tuple[str, ...]
    variants: tuple[str, ...] = ()
    refusals: Refusals | None = None
    ordered: bool = True

    @property
    def grammar(self) -> str:
        """The names of the family in one line."""
        return f"{self.prefix}DEPTH{''.join(map(str, self.options))} (DEPTH {self.depths})"


@dataclass(frozen=True)
class BuiltNetwork:
    """A network whose name sets the arguments of one class.

    Attributes:
        family: Its prefix.
        depth: Layers as its paper counts them.
        options: The options of its family.
        values: What its name says, by argument.
        net: The class; takes the depth, `classes`, and the options' values by name.
        facts: What its description says besides name, family, depth and options.
    """

    family: str
    depth: int
    options: tuple[Option, ...]
    values: tuple[tuple[str, Value], ...]
    net: Callable[..., nn.Module]
    facts: tuple[tuple[str, Any], ...]

    imagenet = False
    """Whether a checkpoint can be in torchvision's layout of the same network, with other strides."""

    @property
    def name(self) -> str:
        """The canonical name, without what is the default."""
        return f"{self.family}{self.depth}{written(dict(self.values), self.options)}"

    @property
    def former_name(self) -> str:
        """The name in older records."""
        return self.name

    @property
    def shown(self) -> BuiltNetwork:
        """The architecture as far as a state dict shows it."""
        return self

    @property
    def initialization(self) -> str:
        """How `create` draws the weights, in words."""
        return "He initialization"

    @property
    def description(self) -> NetworkDescription:
        """The facts of the network."""
        form, _, family = self.family.rpartition("/")
        options = {key: value for key, value in self.values if key != "width"}
        facts = dict(self.facts)
        return NetworkDescription(self.name, family, self.depth, form=form or "cifar", options=options, **facts)

    def skeleton(self, classes: int | None = None) -> nn.Module:
        """The network with memory but without values."""
        values = dict(self.values) if classes is None else {**dict(self.values), "classes": classes}
        return materialize(lambda: self.net(self.depth, **values))

    def create(self, classes: int | None = None, seed: int = 0) -> nn.Module:
        """Build the network at its initialization."""
        return he_initialize(self.skeleton(classes), seed)

    def regular(self) -> None:
        """There is no rule by which its cost follows from that of smaller networks."""


def family_of(
    prefix: str,
    depths: Callable[[Mapping[str, Any]], Depths],
    net: Callable[..., nn.Module],
    listed: tuple[str, ...],
    *,
    options: tuple[Option, ...] = (),
    defaults: Mapping[str, Value] | None = None,
    width: Callable[[Mapping[str, Any]], int],
    rule: str = "",
    **facts: str,
) -> Family:
    """An entry whose networks are of one class.

    Args:
        prefix: What stands before the depth.
        depths: The depths that there are, from the options' values.
        net: The class of the networks; takes the depth, `classes`, and the options' values by name.
        listed: The papers' networks.
        options: Those of the family.
        defaults: Values that a canonical name has where the name does not say them.
        width: Channels of the first stage, from the options' values.
        rule: The rule of depths in words, where options change it.
        **facts: `kind`, `unit`, `block` and `normalization` of the description.
    """

    def read(name: str, depth: int, values: dict[str, Any]) -> BuiltNetwork:
        values = {**(defaults or {}), **values}
        depths(values).check(prefix, depth, name)
        known = {**facts, "width": width(values)}
        others = {field: value for field, value in values.items() if field != "width"}
        if width(others) == width(values):
            values = others
        return BuiltNetwork(prefix, depth, options, tuple(values.items()), net, tuple(known.items()))

    return Family(prefix, rule or str(depths({})), read, options, listed)
