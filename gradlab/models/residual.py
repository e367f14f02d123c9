"""The residual and plain networks of He et al. and their looks-linear form, as their names describe them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from gradlab.errors import UsageError
from gradlab.models.blocks import Style
from gradlab.models.built import of_two_papers
from gradlab.models.cifar import CifarNet
from gradlab.models.description import NetworkDescription
from gradlab.models.grammar import Depths, Value, write_number
from gradlab.models.imagenet import STAGES, ImageNetNet, paper_option
from gradlab.models.initialization import he_initialize, materialize
from gradlab.models.looks_linear import LooksLinearNet, looks_linear_initialize
from gradlab.models.residual_units import Unit
from gradlab.models.shortcuts import Gate, ShortcutOption

BOTTLENECK_DEPTHS = (164, 1001)
"""Depths of the CIFAR networks with bottlenecks of He et al. 2016 (arXiv:1603.05027, Tables 2 to 4)."""

PUBLISHED_FOR_IMAGENET = (*STAGES, 200)
"""Depths of the papers' ImageNet networks, whose names without `imagenet/` are ambiguous (200: 1603.05027, Table 5)."""

GATE_BIAS = -6.0
"""The gate bias of Table 1 that harms shortcuts least, assumed where a state dict does not show the initial bias."""

BASIC = Depths(step=6, plus=2)
BOTTLENECKS = Depths(step=9, plus=2)
IMAGENET = Depths(choices=tuple(STAGES))
IMAGENET_PLAIN = Depths(choices=(18, 34))
"""The valid depths of each form."""


@dataclass(frozen=True)
class Architecture:
    """A residual or plain network as its name describes it.

    Attributes:
        family: The family, `resnet`, or `plain` for the same layers without shortcuts.
        depth: The number of weighted layers, not counting projections of shortcuts.
        option: The shortcut option; None for a plain net.
        width: The number of channels of the first stage.
        imagenet: Whether it has the ImageNet form of Table 1 rather than the CIFAR form of §4.2.
        beta: The weight β of the residual branches, x + β·F(x).
        looks_linear: Whether CReLU and mirrored orthogonal weights replace ReLU and batch normalization.
        crelu: Whether the network is the looks-linear one with weights from He initialization.
        shortcut_scale: The factor λ of the shortcuts, λ·x + F(x).
        unit: The order of normalization and ReLU in a residual block.
        bottleneck: Whether a CIFAR network has bottlenecks; for ImageNet the depth determines it.
        exclusive_gate: The initial bias of gates on shortcut and branch; None without such gates.
        shortcut_gate: The initial bias of gates on the shortcut alone; None without such gates.
        shortcut_dropout: The fraction of the shortcut's values that is dropped in training.
    """

    family: Literal["resnet", "plain"]
    depth: int
    option: ShortcutOption | None
    width: int
    imagenet: bool = False
    beta: float = 1.0
    looks_linear: bool = False
    shortcut_scale: float = 1.0
    unit: Unit = "original"
    bottleneck: bool = False
    exclusive_gate: float | None = None
    shortcut_gate: float | None = None
    shortcut_dropout: float = 0.0
    crelu: bool = False

    @property
    def name(self) -> str:
        """The canonical name, which omits default values."""
        prefix = "imagenet/" if self.imagenet else ""
        return f"{prefix}{self.family}{self.depth}{self._words()}{self._numbers()}"

    @property
    def former_name(self) -> str:
        """The name in older records, in which a depth without a block type always meant basic blocks."""
        return self.name.replace("-basic", "")

    def _words(self) -> str:
        option = (
            "" if self.option in (None, default_option(self.depth, self.imagenet, self.bottleneck)) else self.option
        )
        block = "" if self.family == "plain" or self.imagenet else block_word(self.depth, self.bottleneck)
        unit = "" if self.unit == "original" else self.unit
        activation = "ll" if self.looks_linear else "crelu" if self.crelu else ""
        return "".join(f"-{word}" for word in (option, block, unit, activation) if word)

    def _numbers(self) -> str:
        numbers = (
            ("width=", self.width, 64 if self.imagenet else 16),
            ("shortcut=", self.shortcut_scale, 1),
            ("exclusive-gate=", self.exclusive_gate, None),
            ("shortcut-gate=", self.shortcut_gate, None),
            ("shortcut-dropout=", self.shortcut_dropout, 0),
            ("beta=", self.beta, 1),
        )
        return "".join(write_number(label, value, default) for label, value, default in numbers if value is not None)

    @property
    def shown(self) -> Architecture:
        """The architecture as far as a state dict determines it, without scales, most units and the initialization."""
        return replace(
            self,
            beta=1.0,
            shortcut_scale=1.0,
            unit="preact" if self.unit == "preact" else "original",
            exclusive_gate=None if self.exclusive_gate is None else GATE_BIAS,
            shortcut_gate=None if self.shortcut_gate is None else GATE_BIAS,
            shortcut_dropout=0.0,
            looks_linear=self.looks_linear or self.crelu,
            crelu=False,
        )

    @property
    def is_of_2015(self) -> bool:
        """Whether, apart from width and β, it is a network of He et al. 2015, §4.2, to which the theory applies."""
        return replace(self, beta=1.0) == Architecture(
            self.family, self.depth, "A" if self.option else None, self.width
        )

    @property
    def initialization(self) -> str:
        """A phrase that names the initialization which `create` uses."""
        return "looks-linear initialization" if self.looks_linear else "He initialization"

    @property
    def style(self) -> Style:
        """The design of the blocks."""
        gates = (self.exclusive_gate, True), (self.shortcut_gate, False)
        gate = next((Gate(bias, exclusive) for bias, exclusive in gates if bias is not None), None)
        return Style(self.option, self.beta, self.shortcut_scale, self.unit, gate, self.shortcut_dropout)

    @property
    def description(self) -> NetworkDescription:
        """The description of the network."""
        expansion = STAGES[self.depth][0].expansion if self.imagenet else 4 if self.bottleneck else 1
        return NetworkDescription(
            name=self.name,
            family=self.family,
            depth=self.depth,
            kind="residual" if self.family == "resnet" else "plain",
            unit="crelu" if self.looks_linear or self.crelu else self.unit,
            block="bottleneck" if expansion > 1 else "basic" if self.family == "resnet" else "convolution",
            normalization="none" if self.looks_linear or self.crelu else "batch",
            width=self.width,
            form="imagenet" if self.imagenet else "cifar",
            options=self._options(),
        )

    def _options(self) -> dict[str, Value]:
        values: dict[str, tuple[Value | None, Value | None]] = {
            "shortcut": (self.option, None),
            "shortcut scale": (self.shortcut_scale, 1.0),
            "exclusive gate": (self.exclusive_gate, None),
            "shortcut gate": (self.shortcut_gate, None),
            "shortcut dropout": (self.shortcut_dropout, 0.0),
            "beta": (self.beta, 1.0),
        }
        return {name: value for name, (value, default) in values.items() if value is not None and value != default}

    def skeleton(self, classes: int | None = None) -> nn.Module:
        """Build the network with allocated but uninitialized parameters."""
        classes = classes or (1000 if self.imagenet else 10)
        sizes = self.style, self.width, classes
        if self.looks_linear or self.crelu:
            return materialize(lambda: LooksLinearNet(self.depth, self.width, classes))
        if self.imagenet:
            return materialize(lambda: ImageNetNet(self.depth, *sizes))
        return materialize(lambda: CifarNet(self.depth, *sizes, bottleneck=self.bottleneck))

    def create(self, classes: int | None = None, seed: int = 0) -> nn.Module:
        """Build the network at its initialization."""
        initialize = looks_linear_initialize if self.looks_linear else he_initialize
        return initialize(self.skeleton(classes), seed)

    def regular(self) -> tuple[Architecture, Architecture, int] | None:
        """Return the networks with one and two blocks per stage, and how many blocks per stage more than 1 this has."""
        if self.imagenet:
            return None
        rule = BOTTLENECKS if self.bottleneck else BASIC
        one, two = (replace(self, depth=blocks * rule.step + rule.plus) for blocks in (1, 2))
        return one, two, (self.depth - one.depth) // rule.step


def default_option(depth: int, imagenet: bool, bottleneck: bool) -> ShortcutOption:
    """Return the papers' shortcut option: zero-padding, or projections for bottlenecks."""
    if imagenet:
        return paper_option(depth)
    return "B" if bottleneck else "A"


def block_word(depth: int, bottleneck: bool) -> str:
    """Return the word for the block type in a CIFAR name, empty if the depth determines it."""
    if bottleneck:
        return "" if depth in BOTTLENECK_DEPTHS else "bottleneck"
    return "basic" if depth in BOTTLENECK_DEPTHS or depth in PUBLISHED_FOR_IMAGENET else ""


def read_residual(name: str, depth: int, values: dict[str, Any], *, imagenet: bool = False) -> Architecture:
    """Make the residual network of a parsed name.

    Raises:
        UsageError: If the depth is invalid or the options are incompatible.
    """
    block = values.pop("block", None)
    bottleneck = not imagenet and (block == "bottleneck" or (block is None and depth in BOTTLENECK_DEPTHS))
    if imagenet:
        IMAGENET.check("imagenet/resnet", depth, name)
    else:
        if block is None and depth in PUBLISHED_FOR_IMAGENET:
            raise _unclear("resnet", depth, name)
        (BOTTLENECKS if bottleneck else BASIC).check("resnet", depth, name)
    option = values.pop("option", None) or default_option(depth, imagenet, bottleneck)
    width = values.pop("width", 64 if imagenet else 16)
    architecture = Architecture("resnet", depth, option, width, imagenet, bottleneck=bottleneck, **values)
    _check(architecture, name)
    return architecture


def read_plain(name: str, depth: int, values: dict[str, Any], *, imagenet: bool = False) -> Architecture:
    """Make the plain network of a parsed name.

    Raises:
        UsageError: If the depth is invalid.
    """
    if imagenet:
        IMAGENET_PLAIN.check("imagenet/plain", depth, name)
    else:
        if depth in IMAGENET_PLAIN.choices:
            raise _unclear("plain", depth, name)
        BASIC.check("plain", depth, name)
    width = values.get("width", 64 if imagenet else 16)
    looks_linear, crelu = "looks_linear" in values, "crelu" in values
    if looks_linear and crelu:
        raise UsageError(f"{name}: ll and crelu are two initializations of one network: give one")
    return Architecture("plain", depth, None, width, imagenet, looks_linear=looks_linear, crelu=crelu)


def _unclear(family: str, depth: int, name: str) -> UsageError:
    """Make the error about a depth that may mean the CIFAR or the ImageNet form."""
    ours = depth in (IMAGENET_PLAIN if family == "plain" else IMAGENET).choices
    others = [f"imagenet/{family}{depth}"] if ours else []
    if family == "resnet":
        others.append(f"torchvision/{family}{depth}" if ours else f"timm/{family}{depth}")
    if (depth - BASIC.plus) % BASIC.step:
        cifar = f"the CIFAR form has {BASIC} layers"
    else:
        cifar = f"{family}{depth}-basic is the CIFAR form of {depth} layers"
    return of_two_papers(name, others, cifar)


def _check(asked: Architecture, name: str) -> None:
    """Raise `UsageError` if the options are incompatible."""
    if asked.option == "A" and asked.width % 2 and asked.imagenet and asked.depth >= 50:
        raise UsageError(f"{name}: zero-padding shortcuts need an even width")
    if asked.unit != "original" and asked.option != "A" and not asked.bottleneck:
        raise UsageError(f"{name}: {asked.unit} is for zero-padding shortcuts, so without option {asked.option}")
    changed = {
        "exclusive-gate": asked.exclusive_gate is not None,
        "shortcut-gate": asked.shortcut_gate is not None,
        "shortcut-dropout": asked.shortcut_dropout > 0,
    }
    given = [option for option, is_given in changed.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{name}: a shortcut is changed in one way: {' or '.join(given)}")
    if given and (asked.unit != "original" or asked.option != default_option(asked.depth, False, asked.bottleneck)):
        raise UsageError(f"{name}: {given[0]} is for original units and the shortcuts that the network has by default")
