"""The one grammar of our networks' names: a table with an entry a family, and what a name says.

A name is a family, a depth and options: `resnet110-preact-width=32`. A variant of a family is an option of its entry; a
new family is a file with its network and an entry here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from torch import nn

from gradlab.errors import UsageError
from gradlab.models import highway, vgg, vovnet
from gradlab.models.densenet import DenseNet
from gradlab.models.description import NamedNetwork, NetworkDescription
from gradlab.models.external import is_external
from gradlab.models.grammar import Depths, Option, Value, read_options, written
from gradlab.models.initialization import he_initialize, materialize
from gradlab.models.mlp import family as mlp
from gradlab.models.mlp.family import MLPArchitecture, read_mlp
from gradlab.models.residual import (
    BASIC,
    BOTTLENECK_DEPTHS,
    BOTTLENECKS,
    IMAGENET,
    IMAGENET_PLAIN,
    Architecture,
    read_plain,
    read_residual,
)
from gradlab.models.residual_units import UNITS
from gradlab.models.shortcuts import ShortcutOption

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
        values: What its name says, by field.
        make: Builds it from the depth, the number of classes (None for its own) and the values.
        facts: What its description says besides name, depth and options.
    """

    family: str
    depth: int
    options: tuple[Option, ...]
    values: tuple[tuple[str, Value], ...]
    make: Callable[[int, int | None, Mapping[str, Any]], nn.Module]
    facts: tuple[tuple[str, Any], ...]

    imagenet = False
    """For reading checkpoints: none of these is the network of a layout that torchvision names otherwise."""

    @property
    def name(self) -> str:
        """The canonical name, without what is the default."""
        return f"{self.family}{self.depth}{written(dict(self.values), self.options)}"

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
        family = self.family.rpartition("/")[2]
        form = "imagenet" if "/" in self.family else "cifar"
        return NetworkDescription(
            **{"name": self.name, "family": family, "depth": self.depth, "form": form, **dict(self.facts)},
            # A lone word, such as slim, is there or not.
            options={
                key: value if isinstance(value, int | float) else True for key, value in self.values if key != "width"
            },
        )

    def skeleton(self, classes: int | None = None) -> nn.Module:
        """The network with memory but without values."""
        return materialize(lambda: self.make(self.depth, classes, dict(self.values)))

    def create(self, classes: int | None = None, seed: int = 0) -> nn.Module:
        """Build the network at its initialization."""
        return he_initialize(self.skeleton(classes), seed)

    def regular(self) -> None:
        """There is no rule by which its cost follows from that of smaller networks."""


def family_of(
    prefix: str,
    depths: Depths | Mapping[bool, Depths],
    make: Callable[[int, int | None, Mapping[str, Any]], nn.Module],
    facts: Callable[[Mapping[str, Any]], dict[str, Any]],
    listed: tuple[str, ...],
    options: tuple[Option, ...] = (),
    variants: tuple[str, ...] = (),
    defaults: Mapping[str, Value] | None = None,
) -> Family:
    """An entry whose networks are of one class.

    Args:
        prefix: What stands before the depth.
        depths: The depths that there are; by whether there are bottlenecks, where these change them.
        make: Builds a network from the depth, the number of classes (None for its own) and the options' values.
        facts: What the description says besides name, depth and options, from the values.
        listed: The paper's networks.
        options: Those of the family.
        variants: One name a variant.
        defaults: Values that a canonical name has where the name does not say them.
    """

    def read(name: str, depth: int, values: dict[str, Any]) -> BuiltNetwork:
        values = {**(defaults or {}), **values}
        rule = depths if isinstance(depths, Depths) else depths["bottleneck" in values]
        rule.check(prefix, depth, name)
        return BuiltNetwork(prefix, depth, options, tuple(values.items()), make, tuple(facts(values).items()))

    rules = [depths] if isinstance(depths, Depths) else list(dict.fromkeys(depths.values()))
    return Family(prefix, " or ".join(map(str, rules)), read, options, listed, variants)


OPTION = Option("option", words=get_args(ShortcutOption))
BLOCK = Option("block", words=("basic", "bottleneck"))
UNIT = Option("unit", words=tuple(UNITS)[1:])
LOOKS_LINEAR = Option("looks_linear", words=("ll",))
WIDTH = Option("width", "width=", says="the width is a number of channels, at least 1", whole=True, low=1)
SHORTCUT = Option(
    "shortcut_scale",
    "shortcut=",
    says="shortcut scales the shortcuts, a number above 0; without them the network is plain",
    above=True,
)
EXCLUSIVE_GATE, SHORTCUT_GATE = (
    Option(field, label, says=f"{label.removesuffix('=')} is the gates' initial bias, from -20 to 20", low=-20, high=20)
    for field, label in (("exclusive_gate", "exclusive-gate="), ("shortcut_gate", "shortcut-gate="))
)
DROPOUT = Option(
    "shortcut_dropout",
    "shortcut-dropout=",
    says="shortcut-dropout is the share that is dropped, above 0 and at most 0.95",
    above=True,
    high=0.95,
)
BETA = Option("beta", "beta=", says="beta scales the residual branches, a number above 0", above=True)

RESIDUAL_ONLY = {
    word: "{word} is for residual CIFAR networks, such as resnet110-preact"
    for option in (BLOCK, UNIT, SHORTCUT, EXCLUSIVE_GATE, SHORTCUT_GATE, DROPOUT)
    for word in option.words or (option.shown,)
}
PLAIN_CIFAR_ONLY = {"ll": "looks-linear networks are plain CIFAR nets, such as plain56-ll"}
NO_SHORTCUTS = {
    **dict.fromkeys(OPTION.words, "a plain network has no shortcuts, so no option {word}"),
    "beta": "a plain network has no residual branches, so no beta",
    **RESIDUAL_ONLY,
}


def _named(prefix: str, depths: tuple[int, ...], suffix: str = "") -> tuple[str, ...]:
    return tuple(f"{prefix}{depth}{suffix}" for depth in depths)


CIFAR_DEPTHS = (20, 32, 44, 56, 110)

FAMILIES = (
    Family(
        "plain",
        str(BASIC),
        read_plain,
        (LOOKS_LINEAR, WIDTH),
        _named("plain", CIFAR_DEPTHS),
        _named("plain", CIFAR_DEPTHS, "-ll"),
        NO_SHORTCUTS,
    ),
    Family(
        "resnet",
        f"{BASIC}, with bottlenecks {BOTTLENECKS}, as {BOTTLENECK_DEPTHS[0]} and {BOTTLENECK_DEPTHS[1]} have them",
        read_residual,
        (OPTION, BLOCK, UNIT, WIDTH, SHORTCUT, EXCLUSIVE_GATE, SHORTCUT_GATE, DROPOUT, BETA),
        (*_named("resnet", (*CIFAR_DEPTHS, 1202)), "resnet164"),
        (
            *_named("resnet", CIFAR_DEPTHS, "-preact"),
            "resnet164-preact",
            "resnet1001-preact",
            *(f"resnet110-{unit}" for unit in UNIT.words if unit != "preact"),
            "resnet110-C",
            "resnet110-shortcut=0.5",
            "resnet110-exclusive-gate=-6",
            "resnet110-shortcut-gate=-6",
            "resnet110-shortcut-dropout=0.5",
        ),
        PLAIN_CIFAR_ONLY,
    ),
    Family(
        "imagenet/plain",
        str(IMAGENET_PLAIN),
        partial(read_plain, imagenet=True),
        (WIDTH,),
        _named("imagenet/plain", IMAGENET_PLAIN.choices),
        refusals={**NO_SHORTCUTS, **PLAIN_CIFAR_ONLY},
    ),
    Family(
        "imagenet/resnet",
        str(IMAGENET),
        partial(read_residual, imagenet=True),
        (OPTION, WIDTH, BETA),
        _named("imagenet/resnet", IMAGENET.choices),
        refusals={**RESIDUAL_ONLY, **PLAIN_CIFAR_ONLY},
    ),
    family_of(
        "imagenet/vgg",
        Depths(choices=tuple(vgg.CONVOLUTIONS)),
        lambda depth, classes, values: vgg.VGG(depth, classes or 1000),
        lambda values: {"kind": "plain", "unit": "relu", "block": "convolution", "normalization": "none", "width": 64},
        ("imagenet/vgg16", "imagenet/vgg19"),
    ),
    family_of(
        "highway",
        Depths(choices=tuple(highway.STAGES)),
        lambda depth, classes, values: highway.HighwayNet(depth, classes or 10, values.get("bias", -2.0)),
        lambda values: {"kind": "highway", "unit": "relu", "block": "highway", "normalization": "none", "width": 32},
        ("highway19", "highway32"),
        (Option("bias", "bias=", says="bias is the gates' initial bias, from -20 to 20", low=-20, high=20),),
    ),
    family_of(
        "densenet",
        {False: Depths(step=3, plus=4), True: Depths(step=6, plus=4)},
        lambda depth, classes, values: DenseNet(depth, classes or 10, values["growth"], "bottleneck" in values),
        lambda values: {
            "kind": "dense",
            "unit": "preact",
            "block": "bottleneck" if "bottleneck" in values else "basic",
            "normalization": "batch",
            "width": 2 * values["growth"] if "bottleneck" in values else 16,
        },
        ("densenet40-k12", "densenet100-bc-k12"),
        (
            Option("bottleneck", words=("bc",)),
            Option("growth", "k", says="k is the growth rate, a whole number, at least 1", whole=True, low=1),
        ),
        defaults={"growth": 12},
    ),
    *(
        family_of(
            f"{form}vovnet",
            Depths(choices=tuple(vovnet.MODULES)),
            lambda depth, classes, values, imagenet=bool(form): vovnet.VoVNet(  # type: ignore[misc]
                depth,
                classes or (1000 if imagenet else 10),
                values.get("width", 64 if "slim" in values else 128),
                "slim" in values,
                imagenet,
            ),
            lambda values: {
                "kind": "osa",
                "unit": "original",
                "block": "osa",
                "normalization": "batch",
                "width": values.get("width", 64 if "slim" in values else 128),
            },
            (f"{form}vovnet27-slim", f"{form}vovnet39", f"{form}vovnet57"),
            (
                Option("slim", words=("slim",)),
                Option("width", "width=", says="the width is a multiple of 4, at least 4", whole=True, low=4),
            ),
        )
        for form in ("imagenet/", "")
    ),
    Family(
        "mlp",
        "at least 1",
        read_mlp,
        (mlp.LL, mlp.NORM, mlp.BIAS, mlp.WIDTH),
        ("mlp50", "mlp50-ll"),
        refusals={"beta": "only a residual net has a beta"},
        ordered=False,
    ),
    Family(
        "resmlp",
        "at least 1",
        partial(read_mlp, residual=True),
        (mlp.NORM, mlp.BETA, mlp.BIAS, mlp.WIDTH),
        ("resmlp50", "resmlp50-beta=0.1"),
        refusals={"ll": "a looks-linear net has no shortcuts, such as mlp50-ll"},
        ordered=False,
    ),
)
"""The families of networks that can be built by name."""

_SPLIT = re.compile(r"(?P<prefix>(?:imagenet/)?[a-z]+)(?P<depth>[0-9]+)(?P<rest>.*)", re.DOTALL)


def parse_name(name: str) -> Any:
    """Read the name of one of our own networks.

    Returns:
        What it says: an `Architecture` for the residual and plain networks, an `MLPArchitecture` for the fully
        connected ones, and a `BuiltNetwork` for all others; each is a `NamedNetwork`.

    Raises:
        UsageError: For a name that is not known, with the nearest ones that are; for an option that the family does
            not have, with the family's grammar; for a depth or a value out of range, with the range.
    """
    match = _SPLIT.fullmatch(name)
    by_prefix = {family.prefix: family for family in FAMILIES}
    family = by_prefix.get(match["prefix"] if match else name)
    if match is None or family is None:
        raise UsageError(f"unknown network {name!r}: {_hint(name, family, match)}")

    def unknown(reason: str, word: str) -> UsageError:
        said = word.partition("=")[0]
        if refusal := (family.refusals or {}).get(said):
            return UsageError(f"{name}: {refusal.format(word=said)}")
        if word:
            near = difflib.get_close_matches(said, _words(family), n=1, cutoff=0.6)
            meant = f"; did you mean {name.replace(f'-{said}', f'-{near[0]}')}?" if near else ""
            reason = f"its options are those of {family.grammar}, not {said}{meant}"
        return UsageError(f"unknown network {name!r}: {reason}")

    values = read_options(name, match["rest"], family.options, unknown, ordered=family.ordered)
    return family.read(name, int(match["depth"]), values)


def describe(name: str) -> NetworkDescription:
    """The facts of a network: family, depth, kind, unit, normalization, width and options, as plain values.

    Args:
        name: A network without weights. Of a network of another package the name says no more than the package.

    Raises:
        UsageError: For a name of ours that is not known.
    """
    if is_external(name):
        package = name.partition("/")[0] if "/" in name and ":" not in name else "function"
        return NetworkDescription(name=name, family=package)
    description: NetworkDescription = parse_name(name).description
    return description


def is_mlp(name: str) -> bool:
    """Whether a network's name is one of a fully connected net."""
    match = _SPLIT.fullmatch(name)
    return (match["prefix"] if match else name) in ("mlp", "resmlp")


def parse_mlp(name: str) -> MLPArchitecture:
    """Read the name of a fully connected net.

    Raises:
        UsageError: For a name that is not known, or of another network.
    """
    found = parse_name(name)
    if not isinstance(found, MLPArchitecture):
        raise UsageError(f"{name} is not a fully connected net, such as mlp50, resmlp50-beta=0.1 or mlp50-ll")
    return found


def catalog() -> list[str]:
    """The residual and plain networks of He et al. 2015, with pre-activation and looks-linear forms."""
    names = [name for prefix in ("plain", "resnet") for name in _listed(prefix) if name != "resnet164"]
    names += [name for prefix in ("imagenet/plain", "imagenet/resnet") for name in _listed(prefix)]
    return [*names, *_named("resnet", CIFAR_DEPTHS, "-preact"), *_named("plain", CIFAR_DEPTHS, "-ll")]


def network_names() -> list[str]:
    """All that `gradlab models` lists: the papers' networks, then one name a variant."""
    of_papers = [name for family in FAMILIES for name in family.listed]
    return of_papers + [name for family in FAMILIES for name in family.variants]


def _listed(prefix: str) -> tuple[str, ...]:
    return next(family.listed for family in FAMILIES if family.prefix == prefix)


def _hint(name: str, family: Family | None, match: re.Match[str] | None) -> str:
    """What to say of a name that belongs to no family, or has no depth."""
    if family is not None:
        return f"a name has a depth, as {family.listed[0]}; its names are {family.grammar}"
    if match and (forms := [f for f in FAMILIES if f.prefix == f"imagenet/{match['prefix']}"]):
        others = f"{forms[0].prefix}{match['depth']} or torchvision/{match['prefix']}{match['depth']}"
        return f"it has a form for ImageNet alone: give {others}"
    near = _near(name)
    return f"did you mean {near}?" if near else "`gradlab models` lists the names"


def _words(family: Family) -> list[str]:
    return [word for option in family.options for word in ((option.shown,) if option.label else option.words)]


def _near(name: str) -> str:
    return " or ".join(difflib.get_close_matches(name, network_names(), n=3, cutoff=0.5))


__all__ = [
    "FAMILIES",
    "Architecture",
    "BuiltNetwork",
    "Family",
    "NetworkDescription",
    "catalog",
    "describe",
    "family_of",
    "is_mlp",
    "network_names",
    "parse_mlp",
    "parse_name",
]
