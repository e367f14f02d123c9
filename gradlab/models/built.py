"""Families whose networks are instances of one class, and networks described by their names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradlab.errors import UsageError
from gradlab.models.description import NamedNetwork, NetworkDescription
from gradlab.models.grammar import Depths, Option, Value, written
from gradlab.models.initialization import he_initialize, materialize

Refusals = Mapping[str, str]
"""Error messages for options that only other families have; {word} stands for the option."""


@dataclass(frozen=True)
class Family:
    """An entry of the table of families.

    Attributes:
        prefix: The part of a name before the depth.
        depths: The rule for depths, in words.
        read: A function that makes the architecture from the whole name, the depth and the values of the options,
            and raises `UsageError` if they are inconsistent.
        options: The options, in the order in which a name gives them.
        listed: The papers' own networks, which `gradlab models` lists.
        variants: One name per variant, which `gradlab models` lists as well.
        refusals: Error messages for options that this family does not have.
        ordered: Whether options must be given in order.
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
        """The grammar of the family's names in one line."""
        return f"{self.prefix}DEPTH{''.join(map(str, self.options))} (DEPTH {self.depths})"


@dataclass(frozen=True)
class BuiltNetwork:
    """A network whose name determines the arguments of one class.

    Attributes:
        family: The prefix of its family.
        depth: The number of layers as its paper counts them.
        options: The options of its family.
        values: The values of the options given in its name, by argument.
        net: The class, which takes the depth, `classes`, and the values of the options by name.
        facts: The fields of its description other than name, family, depth and options.
    """

    family: str
    depth: int
    options: tuple[Option, ...]
    values: tuple[tuple[str, Value], ...]
    net: Callable[..., nn.Module]
    facts: tuple[tuple[str, Any], ...]

    imagenet = False
    """Whether a checkpoint may belong to torchvision's form of the network, which has other strides."""

    @property
    def name(self) -> str:
        """The canonical name, which omits default values."""
        return f"{self.family}{self.depth}{written(dict(self.values), self.options)}"

    @property
    def former_name(self) -> str:
        """The name used in older records."""
        return self.name

    @property
    def shown(self) -> BuiltNetwork:
        """The architecture as far as a state dict determines it."""
        return self

    @property
    def initialization(self) -> str:
        """A phrase that names the initialization which `create` uses."""
        return "He initialization"

    @property
    def description(self) -> NetworkDescription:
        """The description of the network."""
        form, _, family = self.family.rpartition("/")
        options = {key: value for key, value in self.values if key != "width"}
        facts = dict(self.facts)
        return NetworkDescription(self.name, family, self.depth, form=form or "cifar", options=options, **facts)

    def skeleton(self, classes: int | None = None) -> nn.Module:
        """Build the network with allocated but uninitialized parameters."""
        values = dict(self.values) if classes is None else {**dict(self.values), "classes": classes}
        return materialize(lambda: self.net(self.depth, **values))

    def create(self, classes: int | None = None, seed: int = 0) -> nn.Module:
        """Build the network at its initialization."""
        return he_initialize(self.skeleton(classes), seed)

    def regular(self) -> None:
        """Return None, since the cost of these networks does not follow from that of smaller ones."""


def of_two_papers(name: str, imagenet: Sequence[str], cifar: str) -> UsageError:
    """Make the error about a name that one paper has for CIFAR and another for ImageNet.

    Args:
        name: The name.
        imagenet: The names that denote the ImageNet form.
        cifar: What denotes the CIFAR form, in words.
    """
    return UsageError(
        f"{name}: the CIFAR and ImageNet forms differ: {' or '.join(imagenet)} is that of ImageNet, and {cifar}"
    )


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
    unclear: Collection[int] = (),
    **facts: str,
) -> Family:
    """Define a family whose networks are instances of one class.

    Args:
        prefix: The part of a name before the depth.
        depths: A function from the values of the options to the valid depths.
        net: The class of the networks, which takes the depth, `classes`, and the values of the options by name.
        listed: The papers' networks.
        options: The options of the family.
        defaults: Values that the canonical name states even if the given name omits them.
        width: A function from the values of the options to the number of channels of the first stage.
        rule: The rule for depths in words, if it depends on the options.
        unclear: Depths of torchvision's networks of this family, which a name without options does not denote.
        **facts: The `kind`, `unit`, `block` and `normalization` of the description.
    """

    def read(name: str, depth: int, values: dict[str, Any]) -> BuiltNetwork:
        if depth in unclear and not values:
            cifar = f"names of the CIFAR form have options, as {listed[0]}, and {rule or depths({})} layers"
            raise of_two_papers(name, [f"torchvision/{name}"], cifar)
        values = {**(defaults or {}), **values}
        depths(values).check(prefix, depth, name)
        known = {**facts, "width": width(values)}
        others = {field: value for field, value in values.items() if field != "width"}
        if width(others) == width(values):
            values = others
        return BuiltNetwork(prefix, depth, options, tuple(values.items()), net, tuple(known.items()))

    return Family(prefix, rule or str(depths({})), read, options, listed)
