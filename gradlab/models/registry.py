"""Any network by its name: ours, those of other packages, and functions of the user's."""

from typing import Any

from torch import nn

from gradlab.models.description import NamedNetwork
from gradlab.models.external import is_external, load_external
from gradlab.models.names import parse_name


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
    network: NamedNetwork = parse_name(name)
    return network.create(classes, seed)
