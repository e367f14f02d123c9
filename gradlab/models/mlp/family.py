"""The families of fully connected nets of "The Shattered Gradients Problem", and the words for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from gradlab.errors import UsageError
from gradlab.models.description import NetworkDescription
from gradlab.models.grammar import Depths, Option, Value, read_options

if TYPE_CHECKING:
    from gradlab.models.mlp.network import MLP

Kind = Literal["ff", "resnet", "ll"]
Norm = Literal["none", "center", "rms", "bn"]
Init = Literal["he", "glorot", "orthogonal"]

CENTER_UP_TO = 50
"""Depth up to which plain `ff` centres; deeper, one input would dominate, and it uses batch normalization."""

LL = Option("ll", words=("ll",))
NORM = Option("norm", "norm=", get_args(Norm), says=f"the norm is {', '.join(get_args(Norm))}")
BETA = Option("beta", "beta=", says="beta is a number above 0", above=True)
BIAS = Option("bias", "bias=", ("0", "1"), says="bias is 0 or 1")
WIDTH = Option("width", "width=", says="the width is a whole number, at least 1", whole=True, low=1)

DEPTHS = Depths(most=10**9)
NORMALIZATIONS = {"none": "none", "center": "center", "rms": "rms", "bn": "batch"}


@dataclass(frozen=True)
class Family:
    """Networks of one kind at every depth (Balduzzi et al. 2017, arXiv:1702.08591).

    With width N, W ~ N(0, 2/N) without biases, and w ~ N(0, 1/N):

    - `ff`: z₁ = Vx + b; z_l = W relu(norm(z_{l−1})); f = w·relu(z_L); V, b ~ N(0, 2). The first and the last
      ReLU have no norm before them. Depth counts ReLUs.
    - `resnet`: x₀ = Vx + b; x_l = x_{l−1} + βW relu(norm(x_{l−1})); f = w·x_L; V, b ~ N(0, 1). Depth counts blocks.
    - `ll` ("looks linear"): as ff without norm, with concatenated ReLUs and W = (W′, −W′), W′ orthogonal:
      exactly linear at initialization.

    Attributes:
        kind: `ff`, `resnet` or `ll`.
        norm: Over the batch, for each neuron: `none`, `center` (minus the mean), `rms` (divided by the root of
            the mean square) or `bn` (both). None is the default: `bn` for resnet, and for ff `center` up to
            depth 50 and `bn` above.
        beta: Weight of a residual branch.
        bias: Whether the first layer has one.
    """

    kind: Kind
    norm: Norm | None = None
    beta: float = 1.0
    bias: bool = True

    @property
    def name(self) -> str:
        """The family in words, without what is the default: `resnet-beta=0.1`."""
        return self.kind + self.suffix

    @property
    def suffix(self) -> str:
        """The settings in words: `-beta=0.1`, empty at the defaults."""
        norm = f"-norm={self.norm}" if self.norm else ""
        beta = f"-beta={self.beta:g}" if self.beta != 1 else ""
        return norm + beta + ("" if self.bias else "-bias=0")

    def at(self, depth: int) -> Family:
        """The same family with the norm that it has at a depth."""
        default: Norm = "none"
        if self.kind == "resnet":
            default = "bn"
        elif self.kind == "ff":
            default = "center" if depth <= CENTER_UP_TO else "bn"
        return replace(self, norm=self.norm or default)


@dataclass(frozen=True)
class MLPArchitecture:
    """One network by name: `mlp50`, `resmlp50-beta=0.1`, `mlp50-ll`, `mlp24-norm=none-width=100`.

    Attributes:
        family: What it is made of.
        depth: ReLU layers, or residual blocks.
        width: Neurons a layer.
    """

    family: Family
    depth: int
    width: int = 200

    @property
    def name(self) -> str:
        """The canonical name, without what is the default."""
        prefix = "resmlp" if self.family.kind == "resnet" else "mlp"
        kind = "-ll" if self.family.kind == "ll" else ""
        width = "" if self.width == 200 else f"-width={self.width}"
        return f"{prefix}{self.depth}{kind}{self.family.suffix}{width}"

    @property
    def initialization(self) -> str:
        """How `create` draws the weights, in words."""
        return "its own initialization"

    @property
    def description(self) -> NetworkDescription:
        """The facts of the network."""
        family = self.family.at(self.depth)
        options: dict[str, Value] = {} if family.beta == 1 else {"beta": family.beta}
        return NetworkDescription(
            name=self.name,
            family="resmlp" if family.kind == "resnet" else "mlp",
            depth=self.depth,
            kind="residual" if family.kind == "resnet" else "plain",
            unit={"ff": "relu", "resnet": "preact", "ll": "crelu"}[family.kind],
            block="linear",
            normalization=NORMALIZATIONS[family.norm or "none"],
            width=self.width,
            form="scalar",
            options=options if family.bias else {**options, "bias": 0},
        )

    def skeleton(self, classes: int | None = None) -> MLP:
        """The network with memory but without values; it has one output, whatever the classes."""
        from gradlab.models.mlp.network import empty_mlp

        return empty_mlp(self)

    def create(self, classes: int | None = None, seed: int = 0) -> MLP:
        """Build the network at its initialization; it has one output, whatever the classes."""
        from gradlab.models.mlp.network import create_mlp

        return create_mlp(self, seed)

    def regular(self) -> tuple[MLPArchitecture, MLPArchitecture, int] | None:
        """The networks of the second and third depth, of the same norm, and how many more layers this one has."""
        if self.depth < 2:
            return None
        family = self.family.at(self.depth)
        return replace(self, family=family, depth=2), replace(self, family=family, depth=3), self.depth - 2


def parse_family(text: str) -> Family:
    """Read a family with its settings: `ff-norm=none`, `resnet-beta=0.1`, `ll`.

    Raises:
        UsageError: For a kind or a setting that there is not.
    """
    kind, hyphen, rest = text.partition("-")
    if kind not in get_args(Kind):
        raise UsageError(f"unknown family {text!r}: it is ff, resnet or ll, with settings as in resnet-beta=0.1")

    def unknown(reason: str, left: str) -> UsageError:
        if left.startswith("-beta="):
            return UsageError(f"{text}: only a residual net has a beta")
        word = left.removeprefix("-").partition("=")[0]
        return UsageError(f"{text}: {reason or f'a family has the settings norm, beta and bias, not {word}'}")

    options = (NORM, BETA, BIAS) if kind == "resnet" else (NORM, BIAS)
    return _family(text, cast(Kind, kind), read_options(text, hyphen + rest, options, unknown, ordered=False))


def read_mlp(name: str, depth: int, values: dict[str, Any], *, residual: bool = False) -> MLPArchitecture:
    """The fully connected network that a name says.

    Raises:
        UsageError: For a depth that there is not, or a norm in a looks-linear net.
    """
    DEPTHS.check("resmlp" if residual else "mlp", depth, name)
    kind: Kind = "resnet" if residual else "ll" if values.pop("ll", None) else "ff"
    width = values.pop("width", 200)
    return MLPArchitecture(_family(name, kind, values), depth, width)


def _family(text: str, kind: Kind, values: dict[str, Any]) -> Family:
    norm = values.get("norm")
    if kind == "ll" and norm is not None:
        raise UsageError(f"{text}: the norm is none in a looks-linear net, which begins as a linear function")
    return Family(kind, norm, values.get("beta", 1.0), values.get("bias", "1") == "1")
