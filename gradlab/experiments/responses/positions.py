"""Class scores of images of any size, averaged over positions, as dense evaluation gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

from gradlab.errors import UsageError
from gradlab.experiments.subject import forward

FLATTENING = ("VGG", "AlexNet")
"""The classes of networks of which the first linear layer takes a flattened map, after `features` or stages."""

PRODUCTS = {"aten::addmm": 1, "aten::mm": 0, "aten::linear": 0}
"""The operations that linear layers are made of, and which of their arguments is the layer's input."""

Scores = Callable[[Tensor], Tensor]
"""A function from images (B, 3, H, W) of any size to class scores (B, classes)."""


def over_positions(model: nn.Module, label: str, own: Tensor) -> Scores:
    """Give the function from images of any size to class scores that are averaged over positions.

    Networks with global pooling average by themselves. The linear layers of VGG and AlexNet are applied as convolutions
    (Simonyan and Zisserman 2014, arXiv:1409.1556, §3.2), if that gives what the network gives at its own size.

    Args:
        model: A network.
        label: Its label.
        own: An image of the network's own size, (1, 3, side, side).

    Returns:
        The function, which raises `UsageError` if the network pools or flattens its maps to several positions, which
        mixes scores instead.
    """
    dense = _dense(model)
    if dense is not None:
        expected = forward(model, label, own)
        try:
            found = dense(own)
        except RuntimeError:  # another network of this class, whose layers are not a VGG's
            found = None
        if found is not None and found.shape == expected.shape and _alike(found, expected):
            return dense
    return partial(_watched, model, label)


def as_convolutions(classifier: nn.Sequential, features: Tensor) -> Tensor:
    """Apply the linear layers of a classifier at all positions of a larger map, and average their outputs.

    Args:
        classifier: Linear layers with activations between them, of which the first takes a flattened square map.
        features: The maps (B, C, H, W).

    Returns:
        The outputs (B, classes), averaged over positions.
    """
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            side = round((layer.in_features / features.shape[1]) ** 0.5)
            kernel = layer.weight.view(layer.out_features, features.shape[1], side, side)
            features = F.conv2d(features, kernel, layer.bias)
            continue
        features = layer(features)
    return features.mean((2, 3))


def _dense(model: nn.Module) -> Scores | None:
    """The linear layers of VGG and AlexNet as convolutions; None for other networks."""
    parts: Any = model
    # timm's networks of these names have no linear layers, and pool by themselves.
    if type(model).__name__ not in FLATTENING or not isinstance(getattr(model, "classifier", None), nn.Sequential):
        return None
    stages = parts.features if hasattr(parts, "features") else nn.Sequential(*[*parts.children()][:-1])
    return lambda images: as_convolutions(parts.classifier, stages(images))


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().amax() <= 1e-3 * other.abs().amax())


def _watched(model: nn.Module, label: str, images: Tensor) -> Tensor:
    with _Positions(label):
        return forward(model, label, images)


class _Positions(TorchDispatchMode):
    """Refuses a forward pass in which maps of any size become several positions of one size.

    That is seen of pooling to a given size, and of a map that is flattened for a linear layer, whether by modules or
    by functions, since a linear layer takes one size.

    Args:
        label: The label of the network, for the error.
    """

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label, self._modules = label, ModuleTracker()
        # The numbers of values of maps of several positions that were flattened.
        self._flattened: set[int] = set()

    def __enter__(self) -> _Positions:
        self._modules.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._modules.__exit__(*exception)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call an operation, and look at its shapes."""
        output, name = func(*args, **(kwargs or {})), func._schema.name
        first = output[0] if isinstance(output, tuple) else output
        given = args[PRODUCTS.get(name, 0)] if args else None
        if isinstance(first, Tensor) and isinstance(given, Tensor):
            if "adaptive" in name and _pools_to_several(given, first):
                raise self._refusal("pools maps of any size to several positions")
            if name in PRODUCTS and given.ndim == 2 and given.shape[1] in self._flattened:
                raise self._refusal("takes a map of several positions as one vector")
            if _flattens(given, first):
                self._flattened.add(first.shape[1])
        return output

    def _refusal(self, what: str) -> UsageError:
        # The names begin with the class of the network, and the innermost is the longest.
        _, _, inner = max(self._modules.parents - {"Global"}, key=len, default="").partition(".")
        return UsageError(
            f"{self._label}: {inner or 'its forward pass'} {what}, so that class scores cannot be averaged over the "
            "positions of a larger image: take ten crops (--crops ten)"
        )


def _pools_to_several(before: Tensor, after: Tensor) -> bool:
    """Whether pooling to a given size changes a side of a map to one above 1."""
    return any(1 < now != then for then, now in zip(before.shape[2:], after.shape[2:], strict=True))


def _flattens(before: Tensor, after: Tensor) -> bool:
    """Whether a batch of maps (B, C, H, W) of several positions becomes one of vectors (B, C·H·W)."""
    same = before.ndim == 4 and after.ndim == 2 and (len(before), before.numel()) == (len(after), after.numel())
    return same and sum(side > 1 for side in before.shape[1:]) > 1
