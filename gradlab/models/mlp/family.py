"""The families of fully connected nets of "The Shattered Gradients Problem", and their names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from gradlab.errors import UsageError
from gradlab.models.description import NetworkDescription
from gradlab.models.grammar import Option, Value, read_options

Kind = Literal["ff", "resnet", "ll"]
Norm = Literal["none", "center", "rms", "bn"]
Init = Literal["he", "glorot", "orthogonal"]

CENTER_UP_TO = 50
"""Largest depth at which `ff` centres by default; deeper nets use batch normalization, lest one input dominate."""

LL = Option("ll", words=("ll",))
NORM = Option("norm", "norm=", get_args(Norm), says=f"the norm is {', '.join(get_args(Norm))}")
BETA = Option("beta", "beta=", says="beta is a number above 0", above=True)
SHORTCUT = Option(
    "shortcut",
    "shortcut=",
    says="shortcut scales the shortcuts, a number above 0; without them the net is ff",
    above=True,
)
BIAS = Option("bias", "bias=", ("0", "1"), says="bias is 0 or 1")

NORMALIZATIONS = {"none": "none", "center": "center", "rms": "rms", "bn": "batch"}


@dataclass(frozen=True)
class Family:
    """Networks of one kind at every depth (Balduzzi et al. 2017, arXiv:1702.08591).

    The width is N, W ~ N(0, 2/N) without biases, and w ~ N(0, 1/N).

    - `ff`: z₁ = Vx + b; z_l = W relu(norm(z_{l−1})); f = w·relu(z_L); V, b ~ N(0, 2). The first and the last
      ReLU have no norm before them. Depth counts ReLUs.
    - `resnet`: x₀ = Vx + b; x_l = γx_{l−1} + βW relu(norm(x_{l−1})); f = w·x_L; V, b ~ N(0, 1). Depth counts blocks.
      With γ² + β² = 1 it is the highway net of the paper, whose gates do not depend on the input.
    - `ll` ("looks linear"): as `ff` without norm, with concatenated ReLUs and W = (W′, −W′), W′ orthogonal. It is
      exactly linear at initialization.

    Attributes:
        kind: The kind of net, `ff`, `resnet` or `ll`.
        norm: The normalization of each neuron over the batch: `none`, `center` (subtracts the mean), `rms` (divides by
            the root mean square) or `bn` (both). None is the default: `bn` for resnet, and for ff `center` up to
            depth 50 and `bn` above.
        beta: The weight β of a residual branch.
        shortcut: The weight γ of a shortcut.
        bias: Whether the first layer has a bias.
    """

    kind: Kind
    norm: Norm | None = None
    beta: float = 1.0
    bias: bool = True
    shortcut: float = 1.0

    @property
    def name(self) -> str:
        """The name of the family, which omits default values, such as `resnet-beta=0.1`."""
        return self.kind + self.suffix

    @property
    def suffix(self) -> str:
        """The settings as part of a name, such as `-beta=0.1`, empty for the defaults."""
        norm = f"-norm={self.norm}" if self.norm else ""
        beta = f"-beta={self.beta:g}" if self.beta != 1 else ""
        shortcut = f"-shortcut={self.shortcut:g}" if self.shortcut != 1 else ""
        return norm + shortcut + beta + ("" if self.bias else "-bias=0")

    @property
    def description(self) -> NetworkDescription:
        """The description shared by the family's networks; the normalization is None if it depends on the depth."""
        scales = {"shortcut scale": self.shortcut, "beta": self.beta}
        options: dict[str, Value] = {name: value for name, value in scales.items() if value != 1}
        return NetworkDescription(
            name=self.name,
            family=self.kind,
            kind="residual" if self.kind == "resnet" else "plain",
            unit={"ff": "relu", "resnet": "preact", "ll": "crelu"}[self.kind],
            block="linear",
            normalization=None if self.norm is None else NORMALIZATIONS[self.norm],
            form="scalar",
            options=options if self.bias else {**options, "bias": 0},
        )

    def at(self, depth: int) -> Family:
        """Return the family with its norm resolved for a depth."""
        default: Norm = "none"
        if self.kind == "resnet":
            default = "bn"
        elif self.kind == "ff":
            default = "center" if depth <= CENTER_UP_TO else "bn"
        return replace(self, norm=self.norm or default)


def parse_family(text: str) -> Family:
    """Parse a family with its settings, such as `ff-norm=none`, `resnet-beta=0.1` or `ll`.

    Raises:
        UsageError: If the kind or a setting is unknown.
    """
    kind, hyphen, rest = text.partition("-")
    if kind not in get_args(Kind):
        raise UsageError(f"unknown family {text!r}: it is ff, resnet or ll, with settings as in resnet-beta=0.1")

    def unknown(reason: str, left: str) -> UsageError:
        if given := next((name for name in ("beta", "shortcut") if left.startswith(f"-{name}=")), None):
            return UsageError(f"{text}: only a residual net has a {given}")
        word = left.removeprefix("-").partition("=")[0]
        return UsageError(f"{text}: {reason or f'a family has the settings norm, beta and bias, not {word}'}")

    options = (NORM, SHORTCUT, BETA, BIAS) if kind == "resnet" else (NORM, BIAS)
    return make_family(text, cast(Kind, kind), read_options(text, hyphen + rest, options, unknown, ordered=False))


def make_family(text: str, kind: Kind, values: dict[str, Any]) -> Family:
    """Make the family of a kind and the values of its settings.

    Raises:
        UsageError: If a norm is given for a looks-linear net.
    """
    norm = values.get("norm")
    if kind == "ll" and norm is not None:
        raise UsageError(f"{text}: the norm is none in a looks-linear net, which is initialized as a linear function")
    scales = values.get("beta", 1.0), values.get("shortcut", 1.0)
    return Family(kind, norm, scales[0], values.get("bias", "1") == "1", scales[1])
