"""What is known of a network by its name: facts as plain values, and what an architecture can do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from torch import nn

from gradlab.models.grammar import Value


@dataclass(frozen=True)
class NetworkDescription:
    """The facts of a network, which nobody else reads out of its name.

    Attributes:
        name: The canonical name, without what is the default.
        family: The entry in the table of names: `resnet`, `plain`, `mlp`, `resmlp`, `highway`, `densenet`, `vovnet`,
            `vgg`; for a network of another package `torchvision`, `timm` or `function`.
        depth: Layers as its paper counts them; None where the name does not say.
        kind: How layers are connected: `plain` (none skips another), `residual` (shortcuts that are added),
            `highway` (gated shortcuts), `dense` (all outputs of a block concatenated at every layer) or `osa`
            (concatenated once, at its end); None where the name does not say.
        unit: What a repeated part is: `original`, `bn-after-add`, `relu-before-add`, `relu-preact` or `preact` of
            residual units; `relu` of layers without normalization; `crelu` of looks-linear nets.
        block: `basic` or `bottleneck` of residual and dense nets, `convolution`, `linear`, `highway`, `osa`.
        normalization: `batch`, `none`, or of fully connected nets also `center` and `rms`, over the batch.
        width: Channels of the first stage, or neurons a layer.
        form: `cifar`, `imagenet` or `scalar`: for which inputs.
        options: What the name says besides, by option, without defaults; the shortcut's option always.
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

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a record."""
        return asdict(self)


class NamedNetwork(Protocol):
    """What the architectures of all families can do."""

    @property
    def name(self) -> str:
        """The canonical name, without what is the default."""

    @property
    def depth(self) -> int:
        """Layers as the paper counts them."""

    @property
    def initialization(self) -> str:
        """How `create` draws the weights, in words."""

    @property
    def description(self) -> NetworkDescription:
        """The facts of the network."""

    def skeleton(self, classes: int | None = None) -> nn.Module:
        """The network with memory but without values."""

    def create(self, classes: int | None = None, seed: int = 0) -> nn.Module:
        """Build the network at its initialization."""

    def __hash__(self) -> int:
        """Equal architectures have equal hashes."""

    def regular(self) -> tuple[NamedNetwork, NamedNetwork, int] | None:
        """Two small networks of the family, and how many times their difference lies between the first and this one.

        Parameters and multiply-adds of a network of equal blocks follow exactly; None where there is no such rule.
        """
