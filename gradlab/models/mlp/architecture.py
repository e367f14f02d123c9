"""Fully connected nets by name: a family at a depth and a width."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from gradlab.models.description import NetworkDescription
from gradlab.models.grammar import Depths, Option
from gradlab.models.initialization import materialize
from gradlab.models.mlp.family import BETA, BIAS, LL, NORM, NORMALIZATIONS, SHORTCUT, Family, Init, Kind, make_family
from gradlab.models.mlp.network import MLP, initialize_
from gradlab.models.mlp.weights import WeightStream

DEPTHS = Depths(most=10**9)
WIDTH = Option("width", "width=", says="the width is a whole number, at least 1", whole=True, low=1)

OPTIONS = (LL, NORM, BIAS, WIDTH)
RESIDUAL_OPTIONS = (NORM, SHORTCUT, BETA, BIAS, WIDTH)


@dataclass(frozen=True)
class MLPArchitecture:
    """A network with a name such as `mlp50`, `resmlp50-beta=0.1`, `mlp50-ll` or `mlp24-norm=none-width=100`.

    Attributes:
        family: The family of the network.
        depth: The number of ReLU layers, or of residual blocks.
        width: The number of neurons per layer.
    """

    family: Family
    depth: int
    width: int = 200

    @property
    def name(self) -> str:
        """The canonical name, which omits default values."""
        prefix = "resmlp" if self.family.kind == "resnet" else "mlp"
        kind = "-ll" if self.family.kind == "ll" else ""
        width = "" if self.width == 200 else f"-width={self.width}"
        return f"{prefix}{self.depth}{kind}{self.family.suffix}{width}"

    @property
    def initialization(self) -> str:
        """A phrase that names the initialization which `create` uses."""
        return "its own initialization"

    @property
    def description(self) -> NetworkDescription:
        """The description of the network."""
        family = self.family.at(self.depth)
        return replace(
            family.description,
            name=self.name,
            family="resmlp" if family.kind == "resnet" else "mlp",
            depth=self.depth,
            normalization=NORMALIZATIONS[family.norm or "none"],
            width=self.width,
        )

    def skeleton(self, classes: int | None = None) -> MLP:
        """Build the network with uninitialized parameters; it has one output, whatever `classes` is."""
        family = self.family.at(self.depth)
        model = materialize(lambda: MLP(family, self.depth, self.width))
        assert isinstance(model, MLP)
        return model

    def create(self, classes: int | None = None, seed: int = 0) -> MLP:
        """Build the network at its initialization; it has one output, whatever `classes` is."""
        return create_mlp(self, seed)

    def regular(self) -> tuple[MLPArchitecture, MLPArchitecture, int] | None:
        """Return the networks of depth 2 and 3 with the same norm, and how many layers more than 2 this one has."""
        if self.depth < 2:
            return None
        family = self.family.at(self.depth)
        return replace(self, family=family, depth=2), replace(self, family=family, depth=3), self.depth - 2


def create_mlp(
    architecture: MLPArchitecture, seed: int = 0, init: Init = "he", dtype: torch.dtype = torch.float32
) -> MLP:
    """Build a net at its initialization; see `WeightStream`."""
    model = architecture.skeleton().to(dtype)
    initialize_(model, WeightStream(model.family, architecture.width, seed, init, dtype))
    return model


def read_mlp(name: str, depth: int, values: dict[str, Any], *, residual: bool = False) -> MLPArchitecture:
    """Make the fully connected network of a parsed name.

    Raises:
        UsageError: If the depth is invalid, or a norm is given for a looks-linear net.
    """
    DEPTHS.check("resmlp" if residual else "mlp", depth, name)
    kind: Kind = "resnet" if residual else "ll" if values.pop("ll", None) else "ff"
    width = values.pop("width", 200)
    return MLPArchitecture(make_family(name, kind, values), depth, width)
