"""Detectors with regions of interest: Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) and its losses.

`torchvision/fasterrcnn_resnet50_fpn` is torchvision's, on a feature pyramid (Lin et al. 2016, arXiv:1612.03144).
`fasterrcnn-vgg16` has the convolutions of VGG-16 and the nine anchors of the paper; its two fully connected layers have
1,024 outputs, as in torchvision's detectors, rather than the 4,096 of the classifier of VGG-16.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.models.initialization import he_initialize
from gradlab.models.vgg import CHANNELS, VGG

TORCHVISION = "torchvision/fasterrcnn_resnet50_fpn"
OF_VGG = "fasterrcnn-vgg16"
DETECTORS = (TORCHVISION, OF_VGG)
"""The detectors that can be built by name."""

LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
"""The four terms of the loss: of the region proposals, and of the regions of interest."""

SIDE = 256
"""The height and width of the images, which are not resized."""

CLASSES = 91
"""The number of classes by default, that of COCO with the background."""

_SIZES, _RATIOS = (128, 256, 512), (0.5, 1.0, 2.0)
"""The anchors of Ren et al., §3.3: three sizes in pixels, and three ratios of height to width."""


def create_detector(name: str, classes: int | None, seed: int) -> nn.Module:
    """Build a detector at its initialization, without published weights; it draws from the global generator as well.

    Args:
        name: One of `DETECTORS`.
        classes: The number of classes with the background; None takes `CLASSES`.
        seed: The seed of the convolutions of VGG.
    """
    from torchvision.models import detection

    sizes: dict[str, Any] = {"min_size": SIDE, "max_size": SIDE}
    if name == TORCHVISION:
        model: nn.Module = detection.fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=classes or CLASSES, **sizes
        )
    else:
        model = detection.FasterRCNN(
            _vgg16(seed),
            classes or CLASSES,
            rpn_anchor_generator=detection.rpn.AnchorGenerator((_SIZES,), (_RATIOS,)),
            **sizes,
        )
    model.input_shape, model._gradlab_data = (3, SIDE, SIDE), "boxes"  # type: ignore[assignment]
    return model


def _vgg16(seed: int) -> nn.Module:
    """The convolutions of VGG-16 without the last pooling: (B, 3, H, W) to (B, 512, H / 16, W / 16)."""
    net = he_initialize(VGG(16), seed)
    stages: OrderedDict[str, Any] = OrderedDict(net.named_children())
    stages.pop("classifier")
    stages["layer5"] = stages["layer5"][:-1]
    backbone = nn.Sequential(stages)
    backbone.out_channels = CHANNELS[-1]  # type: ignore[assignment]
    return backbone


def is_detector(model: nn.Module) -> bool:
    """Whether a network is one of torchvision's detectors with regions of interest."""
    return any(kind.__name__ == "GeneralizedRCNN" for kind in type(model).__mro__)


def detection_losses(model: nn.Module, images: Tensor, boxes: Tensor, seed: int) -> dict[str, Tensor]:
    """The four terms of a detector's loss and their sum, in the mode in which the network's layers are.

    Anchors and regions are sampled at random, from the seed alone.

    Args:
        model: A detector (see `is_detector`).
        images: The images (B, 3, H, W), from 0 to 1.
        boxes: The class, from 1, and the corners x₁, y₁, x₂, y₂ of every box, (B, n, 5).
        seed: The seed of the samples.

    Returns:
        The scalars by the names in `LOSSES`, and `sum`.
    """
    targets = [{"boxes": own[:, 1:].to(images.dtype), "labels": own[:, 0].long()} for own in boxes]
    parts: list[Any] = [model, model.rpn, model.roi_heads, model.transform]
    modes = [part.training for part in parts]
    devices = [] if images.device.type == "cpu" else [images.device]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for part in parts:
            part.training = True  # of these alone: their layers keep their mode
        try:
            found: dict[str, Tensor] = model([*images], targets)
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode
    return {**found, "sum": torch.stack([found[term] for term in LOSSES]).sum()}


class Proposals(nn.Module):
    """The region proposals of a detector as a function of the images: the logits of all anchors.

    Args:
        model: A detector, which is not changed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W), from 0 to 1, to the logit that each anchor holds an object, (B, anchors)."""
        model: Any = self.model
        features = model.backbone(model.transform([*images])[0].tensors)
        levels = [features] if isinstance(features, Tensor) else [*features.values()]
        logits, _ = model.rpn.head(levels)
        return torch.cat([level.flatten(1) for level in logits], 1)
