"""The description of a network that its name determines, and the interface of all architectures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from torch import nn

from gradlab.models.grammar import Value


@dataclass(frozen=True)
class NetworkDescription:
    """The properties of a network that its name determines, so that no other module parses names.

    Attributes:
        name: The canonical name, which omits default values.
        family: The entry in the table of names: `resnet`, `plain`, `mlp`, `resmlp`, `highway`, `densenet`, `vovnet` or
            `vgg`; for a network of another package, `torchvision`, `timm` or `function`.
        depth: The number of layers as its paper counts them; None if the name does not determine it.
        kind: The connections of the layers: `plain` (no shortcuts), `residual` (added shortcuts), `highway` (gated
            shortcuts), `dense` (all outputs of a block concatenated at every layer) or `osa` (concatenated once, at
            the end of a block); None if the name does not determine it.
        unit: The repeated unit: `original`, `bn-after-add`, `relu-before-add`, `relu-preact` or `preact` for residual
            nets, `relu` for layers without normalization, `crelu` for looks-linear nets.
        block: The block type: `basic` or `bottleneck` for residual nets, `convolution`, `linear`, `highway`, `dense`
            or `osa` for others.
        normalization: The normalization: `batch` or `none`, and for fully connected nets also `center` and `rms`, over
            the batch.
        width: The number of channels of the first stage, or of neurons per layer.
        form: The kind of inputs: `cifar`, `imagenet` or `scalar`.
        options: The other options in the name that differ from their defaults, and always the shortcut option.
    """

    name: str
    family: str
    depth: int | None = None
    kind: str | None = None
    unit: str | None = None
    block: str | None = None
    normalization: str | None = None
    width: int | None = None
    form: str | None = None
    options: dict[str, Value] = field(default_factory=dict)

    @property
    def series(self) -> str:
        """The name without its depth, such as `resnet-preact`, shared by networks that differ only in depth."""
        if self.depth is None:
            return self.name
        prefix = f"imagenet/{self.family}" if self.form == "imagenet" else self.family
        return self.name.replace(f"{prefix}{self.depth}", prefix, 1)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for a record, including the series."""
        return {**asdict(self), "series": self.series}


class NamedNetwork(Protocol):
    """The interface of the architectures of all families."""

    @property
    def name(self) -> str:
        """The canonical name, which omits default values."""

    @property
    def depth(self) -> int:
        """The number of layers as the paper counts them."""

    @property
    def initialization(self) -> str:
        """A phrase that names the initialization which `create` uses."""

    @property
    def description(self) -> NetworkDescription:
        """The description of the network."""

    def skeleton(self, classes: int | None = None) -> nn.Module:
        """Build the network with allocated but uninitialized parameters."""

    def create(self, classes: int | None = None, seed: int = 0) -> nn.Module:
        """Build the network at its initialization."""

    def __hash__(self) -> int:
        """Return a hash that is equal for equal architectures."""

    def regular(self) -> tuple[NamedNetwork, NamedNetwork, int] | None:
        """Return two small networks, and the multiple of their difference by which this network exceeds the first.

        For a network of equal blocks, the numbers of parameters and multiply-adds follow exactly from these. The
        result is None if there is no such rule.
        """
