"""The names of networks: what `resnet110-B` means, and which names there are."""

import difflib
import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from torch import nn

from gradlab.errors import UsageError
from gradlab.models.blocks import ShortcutOption
from gradlab.models.cifar import CifarNet
from gradlab.models.external import is_external, load_external
from gradlab.models.imagenet import STAGES, ImageNetNet, paper_option
from gradlab.models.initialization import he_initialize, materialize
from gradlab.models.looks_linear import LooksLinearNet, looks_linear_initialize
from gradlab.models.mlp import create_mlp
from gradlab.models.mlp_family import is_mlp, parse_mlp
from gradlab.models.residual_units import Unit

CIFAR_DEPTHS = {"plain": (20, 32, 44, 56, 110), "resnet": (20, 32, 44, 56, 110, 1202)}
DEEPEST = 10_000
"""A bound that only slips of the finger exceed."""

IMAGENET_DEPTHS = {"plain": (18, 34), "resnet": tuple(STAGES)}

_NUMBER = r"\d*\.?\d+(?:e-?\d+)?"
_NAME = re.compile(
    r"(?P<imagenet>imagenet/)?(?P<family>resnet|plain)(?P<depth>[1-9][0-9]*)"
    r"(?:-(?P<option>[ABC]))?(?:-(?P<unit>bn-after-add|relu-before-add|relu-preact|preact))?(?P<looks_linear>-ll)?"
    rf"(?:-width=(?P<width>[0-9]+))?(?:-shortcut=(?P<shortcut>{_NUMBER}))?(?:-beta=(?P<beta>{_NUMBER}))?"
)


@dataclass(frozen=True)
class Architecture:
    """What a name of our own networks says; `name` writes it back.

    Attributes:
        family: `resnet`, or `plain` for the same layers without shortcuts.
        depth: Weighted layers, projections of shortcuts not counted.
        option: Shortcut option; None for a plain net.
        width: Channels of the first stage.
        imagenet: Table 1's form rather than the CIFAR form of §4.2.
        beta: β of the residual branches, x + β·F(x).
        looks_linear: CReLU and mirrored orthogonal weights, in the place of ReLU and batch normalization.
        shortcut_scale: λ of the shortcuts, λ·x + F(x).
        unit: Where normalization and ReLU stand in a residual block.
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

    @property
    def name(self) -> str:
        """The canonical name, without what is the paper's default."""
        prefix = "imagenet/" if self.imagenet else ""
        default = paper_option(self.depth) if self.imagenet else "A"
        option = "" if self.option in (None, default) else f"-{self.option}"
        width = "" if self.width == (64 if self.imagenet else 16) else f"-width={self.width}"
        looks_linear = "-ll" if self.looks_linear else ""
        unit = "" if self.unit == "original" else f"-{self.unit}"
        shortcut, beta = _scale("shortcut", self.shortcut_scale), _scale("beta", self.beta)
        return f"{prefix}{self.family}{self.depth}{option}{unit}{looks_linear}{width}{shortcut}{beta}"

    @property
    def shown(self) -> "Architecture":
        """The architecture as far as a state dict shows it: scales and most units leave keys and shapes as they are."""
        unit: Unit = "preact" if self.unit == "preact" else "original"
        return replace(self, beta=1.0, shortcut_scale=1.0, unit=unit)

    @property
    def initialization(self) -> str:
        """How `create` draws the weights, in words."""
        return "looks-linear initialization" if self.looks_linear else "He initialization"

    def create(self, classes: int | None = None, seed: int = 0) -> nn.Module:
        """Build the network at its initialization."""
        classes = classes or (1000 if self.imagenet else 10)
        if self.looks_linear:
            net = materialize(lambda: LooksLinearNet(self.depth, self.width, classes))
            return looks_linear_initialize(net, seed)
        sizes = self.depth, self.option, self.width, classes
        if self.imagenet:
            return he_initialize(materialize(lambda: ImageNetNet(*sizes, self.beta)), seed)
        return he_initialize(materialize(lambda: CifarNet(*sizes, self.beta, self.shortcut_scale, self.unit)), seed)


def _scale(name: str, value: float) -> str:
    return "" if value == 1 else f"-{name}={value!r}".removesuffix(".0")


def catalog() -> list[str]:
    """The names of the papers' own networks, without variants, in the order of the papers and their tables."""
    cifar = [f"{family}{depth}" for family, depths in CIFAR_DEPTHS.items() for depth in depths]
    imagenet = [f"imagenet/{family}{depth}" for family, depths in IMAGENET_DEPTHS.items() for depth in depths]
    preact = [f"resnet{depth}-preact" for depth in CIFAR_DEPTHS["plain"]]
    looks_linear = [f"plain{depth}-ll" for depth in CIFAR_DEPTHS["plain"]]
    return cifar + imagenet + preact + looks_linear


def parse_name(name: str) -> Architecture:
    """Read the name of one of our own networks.

    Raises:
        UsageError: For a name that is not known, with the nearest ones that are, and for a depth that
            no such network has.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(_unknown(name))
    family = cast(Literal["resnet", "plain"], match["family"])
    depth, imagenet = int(match["depth"]), match["imagenet"] is not None
    if imagenet and depth not in IMAGENET_DEPTHS[family]:
        depths = ", ".join(map(str, IMAGENET_DEPTHS[family]))
        raise UsageError(f"imagenet/{family} has the depths {depths}, not {depth}")
    if not imagenet and (depth < 8 or depth % 6 != 2):
        lower = max(8, depth - (depth - 2) % 6)
        raise UsageError(
            f"{name}: a CIFAR network has 6n + 2 layers; the nearest are {family}{lower} and {family}{lower + 6}"
        )
    if family == "plain" and match["option"]:
        raise UsageError(f"{name}: a plain network has no shortcuts, so no option {match['option']}")
    option: ShortcutOption | None = None
    if family == "resnet":
        default = paper_option(depth) if imagenet else "A"
        option = cast(ShortcutOption, match["option"] or default)
    if depth > DEEPEST:
        raise UsageError(f"{name}: networks go to {DEEPEST:,} layers here")
    width = int(match["width"] or (64 if imagenet else 16))
    if width < 1:
        raise UsageError(f"{name}: the width is a number of channels, at least 1")
    if option == "A" and imagenet and depth >= 50 and width % 2:
        raise UsageError(f"{name}: zero-padding shortcuts need an even width")
    looks_linear = match["looks_linear"] is not None
    if looks_linear and (imagenet or family == "resnet"):
        raise UsageError(f"{name}: looks-linear networks are plain CIFAR nets, such as plain56-ll")
    if family == "plain" and match["beta"]:
        raise UsageError(f"{name}: a plain network has no residual branches, so no beta")
    beta = float(match["beta"] or 1)
    if not 0 < beta < math.inf:
        raise UsageError(f"{name}: beta scales the residual branches, a number above 0")
    architecture = Architecture(family, depth, option, width, imagenet, beta, looks_linear)
    return _with_unit(name, architecture, cast(Unit, match["unit"] or "original"), match["shortcut"])


def _with_unit(name: str, architecture: Architecture, unit: Unit, shortcut: str | None) -> Architecture:
    """The architecture with what He et al. 2016 change in it, which they do in residual networks for CIFAR."""
    asked = [text for text, given in ((unit, unit != "original"), ("shortcut", shortcut)) if given]
    if asked and (architecture.imagenet or architecture.family == "plain"):
        raise UsageError(f"{name}: {asked[0]} is for residual CIFAR networks, such as resnet110-preact")
    if unit != "original" and architecture.option != "A":
        raise UsageError(f"{name}: {unit} is for zero-padding shortcuts, so without option {architecture.option}")
    scale = float(shortcut or 1)
    if not 0 < scale < math.inf:
        raise UsageError(f"{name}: shortcut scales the shortcuts, a number above 0; without them the network is plain")
    return replace(architecture, unit=unit, shortcut_scale=scale)


def create(name: str, classes: int | None = None, seed: int = 0, **options: Any) -> nn.Module:
    """Build any network by name, as initialized from a seed.

    Args:
        name: One of our own (`resnet110-B`), `torchvision/NAME`, `timm/NAME` or `package.module:function`.
        classes: Outputs of the classifier; None keeps the network's own number.
        seed: Seed of the initial weights.
        **options: For the builder of a torchvision network (see `file_options`).

    Raises:
        UsageError: For a name that is not known.
    """
    if is_external(name):
        return load_external(name, classes, seed, **options)
    if is_mlp(name):
        return create_mlp(parse_mlp(name), seed)
    return parse_name(name).create(classes, seed)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, catalog(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`gradlab models` lists the names"
    return f"unknown network {name!r}: {hint}"
