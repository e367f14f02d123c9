"""Test error as the papers report it: over ten crops of an image, or over whole images at several scales."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.data.batching import Batches
from gradlab.errors import UsageError
from gradlab.experiments.responses.positions import Scores, over_positions
from gradlab.experiments.responses.request import Crops
from gradlab.experiments.subject import forward
from gradlab.stats.precision import widest
from gradlab.transfer import uploaded

MARGIN = 8 / 7
"""The shorter side of an image of which crops are taken, over the side of a crop: 256 pixels for 224."""

SCALES = (1.0, 256 / 224, 384 / 224, 480 / 224, 640 / 224)
"""The shorter sides of whole images, over the side of the network's input (He et al. 2015, §3.4)."""


CROPS_IN_WORDS = {"ten": "ten crops of each image", "scales": "each whole image and its mirror image at five scales"}
"""What each choice averages over."""


@torch.no_grad()
def tested_over_crops(model: nn.Module, label: str, stream: Batches, crops: Crops) -> tuple[float, float]:
    """The fraction of images whose class is right, and the mean cross-entropy, of averaged probabilities.

    Args:
        model: A network of images, on the device of the stream, in the mode in which it is tested.
        label: The label of the network.
        stream: Its images and labels.
        crops: `ten` takes the corners and the centre of the central square, and their mirror images (Krizhevsky et al.
            2012); `scales` takes the whole image and its mirror image at five scales, with the class scores averaged
            over positions, for networks that take images of any size (He et al. 2015, §3.4).

    Raises:
        UsageError: If the data has no images larger than the network's input, or no labels.
        GradlabError: If the network cannot run on images of these sizes.
    """
    dataset: Any = stream.dataset
    if not hasattr(dataset, "scaled") or dataset.labels is None:
        raise UsageError(
            f"{dataset.name}: crops are taken from labelled images that are larger than the network's input: give "
            "imagefolder:PATH with one folder per class (--data)"
        )
    # Right answers and the loss.
    found = torch.zeros(2, dtype=widest(stream.device), device=stream.device)
    classes = max(dataset.labels) + 1 if dataset.classes is None else dataset.classes
    views = _ten if crops == "ten" else _at_scales
    scores: Scores = partial(forward, model, label)
    if crops == "scales":
        scores = over_positions(model, label, _prepared(_own_size(dataset, stream.input_shape), stream))
    for place in range(stream.count):
        parts = [scores(_prepared(view, stream)).log_softmax(1) for view in views(dataset, place, stream.input_shape)]
        # Of logarithms, since a small probability would round to 0.
        logs = torch.cat(parts).to(found.dtype)
        mean, target = logs.logsumexp(0) - math.log(len(logs)), dataset.labels[place]
        if len(mean) != classes:
            raise UsageError(f"{label} has {len(mean)} outputs, and {dataset.name} has {classes} classes")
        found += torch.stack(((mean.argmax() == target).to(found.dtype), -mean[target]))
    right, loss = found.tolist()
    return right / stream.count, loss / stream.count


def _prepared(images: Tensor, stream: Batches) -> Tensor:
    images = uploaded(images, stream.device)
    return images.float() if stream.normalization is None else stream.normalization(images, stream.dtype)


def _ten(dataset: Any, place: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """The ten crops of an image, as one batch; odd margins are rounded as torchvision does."""
    from torchvision.transforms.v2 import functional as images

    side = shape[-1]
    large = round(MARGIN * side)
    yield torch.stack(images.ten_crop(images.center_crop(dataset.scaled(place, large), large), side))


def _own_size(dataset: Any, shape: tuple[int, ...]) -> Tensor:
    """The centre of the first image at the size of the network's input, as a batch."""
    from torchvision.transforms.v2 import functional as images

    own: Tensor = images.center_crop(dataset.scaled(0, shape[-1]), shape[-1])[None]
    return own


def _at_scales(dataset: Any, place: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """A whole image and its mirror image at each scale."""
    for scale in SCALES:
        image = dataset.scaled(place, round(scale * shape[-1]))
        yield torch.stack((image, image.flip(2)))
