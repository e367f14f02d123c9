"""Networks by name: our own, those of other packages, and user-defined functions."""

from typing import Any

from torch import nn

from gradlab.models.description import NamedNetwork
from gradlab.models.external import is_external, load_external
from gradlab.models.names import parse_name


def create(name: str, classes: int | None = None, seed: int = 0, **options: Any) -> nn.Module:
    """Build any network by name, initialized from a seed.

    Args:
        name: The name of one of our networks (`resnet110-B`), `torchvision/NAME`, `timm/NAME`,
            `transformers/CONFIG.json` or `package.module:function`.
        classes: The number of outputs of the classifier; None keeps the network's default.
        seed: The seed of the initial weights.
        **options: Options for the builder of a torchvision network (see `file_options`).

    Raises:
        UsageError: If the name is unknown.
    """
    if is_external(name):
        return load_external(name, classes, seed, **options)
    network: NamedNetwork = parse_name(name)
    return network.create(classes, seed)
