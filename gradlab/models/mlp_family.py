"""The families of fully connected nets of "The Shattered Gradients Problem", and the words for them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from gradlab.errors import UsageError

Kind = Literal["ff", "resnet", "ll"]
Norm = Literal["none", "center", "rms", "bn"]
Init = Literal["he", "glorot", "orthogonal"]

CENTER_UP_TO = 50
"""Depth up to which plain `ff` centres; deeper, one input would dominate, and it uses batch normalization."""

_SETTING = re.compile(r"-(?=[a-z]+=)")
_NAME = re.compile(r"(?P<kind>mlp|resmlp)(?P<depth>\d+)(?P<ll>-ll)?(?P<settings>(?:-[a-z]+=[^=]+)*)")


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


def parse_family(text: str) -> Family:
    """Read a family with its settings: `ff-norm=none`, `resnet-beta=0.1`, `ll`.

    Raises:
        UsageError: For a kind or a setting that there is not.
    """
    kind, *settings = _SETTING.split(text)
    if kind not in get_args(Kind):
        raise UsageError(f"unknown family {text!r}: it is ff, resnet or ll, with settings as in resnet-beta=0.1")
    family, rest = _settings(text, Family(cast(Kind, kind)), settings)
    if rest:
        raise UsageError(f"{text}: a family has the settings norm, beta and bias, not {next(iter(rest))}")
    return family


def is_mlp(name: str) -> bool:
    """Whether a network's name is one of a fully connected net."""
    return name.startswith(("mlp", "resmlp"))


def parse_mlp(name: str) -> MLPArchitecture:
    """Read the name of a fully connected net.

    Raises:
        UsageError: For a name, a setting or a size that there is not.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"unknown network {name!r}: a fully connected net is mlp50, resmlp50-beta=0.1 or mlp50-ll")
    if match["kind"] == "resmlp" and match["ll"]:
        raise UsageError(f"{name}: a looks-linear net has no shortcuts: mlp{match['depth']}-ll")
    kind: Kind = "resnet" if match["kind"] == "resmlp" else "ll" if match["ll"] else "ff"
    family, rest = _settings(name, Family(kind), _SETTING.split(match["settings"])[1:])
    width = rest.pop("width", "200")
    if rest:
        raise UsageError(f"{name}: a network has the settings norm, beta, bias and width, not {next(iter(rest))}")
    if not width.isdecimal() or int(width) < 1 or int(match["depth"]) < 1:
        raise UsageError(f"{name}: depth and width are whole numbers, at least 1")
    return MLPArchitecture(family, int(match["depth"]), int(width))


def _settings(text: str, family: Family, settings: list[str]) -> tuple[Family, dict[str, str]]:
    """The family with its settings, and those that are not of a family."""
    values = dict(setting.split("=", 1) for setting in settings)
    norm = values.pop("norm", None)
    if norm is not None and (norm not in get_args(Norm) or family.kind == "ll"):
        choices = "none" if family.kind == "ll" else ", ".join(get_args(Norm))
        raise UsageError(f"{text}: the norm is {choices}, not {norm!r}")
    bias = values.pop("bias", "1")
    if bias not in ("0", "1"):
        raise UsageError(f"{text}: bias is 0 or 1, not {bias!r}")
    if "beta" in values and family.kind != "resnet":
        raise UsageError(f"{text}: only a residual net has a beta")
    return replace(
        family, norm=cast(Norm | None, norm), beta=_beta(text, values.pop("beta", "1")), bias=bias == "1"
    ), values


def _beta(text: str, value: str) -> float:
    try:
        beta = float(value)
    except ValueError:
        beta = math.nan
    if not (beta > 0 and math.isfinite(beta)):
        raise UsageError(f"{text}: beta is a number above 0, not {value!r}")
    return beta
