"""Accuracy over ten crops and over whole images at several scales, against loops written out."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.models import alexnet
from torchvision.transforms import v2

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.experiments.responses.positions import as_convolutions, over_positions

SIDE = 28
ODD_SIDE = 20
"""A side of crops with margins of 3 pixels around the centre of the central square, and around that of one image."""
SIZES = [(50, 70), (80, 44), (45, 52), (41, 60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four noisy images of different shapes in two classes."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for place, (height, width) in enumerate(SIZES):
        own = root / f"class{place // 2}"
        own.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(own / f"{place}.png")
    return root


@pytest.fixture(scope="module")
def network() -> Any:
    """A net for images of any size, with two classes and no statistics of batches."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    model.input_shape = (3, SIDE, SIDE)
    return model


def opened(folder: Path, shorter: int) -> list[Tensor]:
    """The images with a shorter side of so many pixels, in the order of their names, normalized as ImageNet's."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = []
    for path in sorted(folder.glob("*/*.png")):
        image = v2.functional.resize(v2.functional.pil_to_tensor(Image.open(path)), [shorter], antialias=True)
        found.append(((image / 255 - mean[:, None, None]) / std[:, None, None]).double())
    return found


def by_hand(model: nn.Module, folder: Path, crops: str, side: int) -> tuple[float, float]:
    """Accuracy and mean cross-entropy of averaged probabilities, image by image and crop by crop, in float64."""
    model = copy.deepcopy(model).double()
    logarithms: list[list[Tensor]] = [[] for _ in SIZES]
    if crops == "ten":
        large = round(side * 256 / 224)
        for own, image in zip(logarithms, opened(folder, large), strict=True):
            views = v2.TenCrop(side)(v2.CenterCrop(large)(image))
            own += [model(crop[None]).log_softmax(1)[0] for crop in views]
    else:
        for shorter in (224, 256, 384, 480, 640):
            for own, image in zip(logarithms, opened(folder, round(side * shorter / 224)), strict=True):
                own += [model(one[None]).log_softmax(1)[0] for one in (image, v2.functional.horizontal_flip(image))]
    means = torch.stack([torch.stack(own).logsumexp(0) - math.log(len(own)) for own in logarithms])
    labels = torch.tensor([0, 0, 1, 1])
    right = (means.argmax(1) == labels).float().mean()
    return float(right), float(-means[torch.arange(4), labels].mean())


@pytest.mark.parametrize("side", [SIDE, ODD_SIDE])
@pytest.mark.parametrize("certainty", [1, 1e5])
@pytest.mark.parametrize("crops", ["ten", "scales"])
def test_accuracy_is_that_of_the_loop(crops: Any, folder: Path, network: Any, certainty: float, side: int) -> None:
    network = copy.deepcopy(network)
    network.input_shape = (3, side, side)
    network[-1].weight.data *= certainty
    result = gl.responses(network, f"imagefolder:{folder}", bn="eval", normalize="imagenet", crops=crops, device="cpu")
    facts = result.facts(result.networks[0])
    with torch.no_grad():
        accuracy, loss = by_hand(network, folder, crops, side)
    assert facts["accuracy"] == pytest.approx(accuracy)
    assert facts["loss"] == pytest.approx(loss, rel=1e-4)
    assert facts["crops"] == crops
    assert any("averaged over" in note for note in result.notes)


def test_linear_layers_are_applied_at_every_position() -> None:
    classifier = nn.Sequential(nn.Linear(3 * 5 * 5, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 4)).double().eval()
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    windows = [features[:, :, i : i + 5, j : j + 5].flatten(1) for i in range(3) for j in range(5)]
    expected = torch.stack([classifier(window) for window in windows]).mean(0)
    torch.testing.assert_close(as_convolutions(classifier, features), expected)


def test_alexnet_is_applied_at_every_position_too() -> None:
    torch.manual_seed(0)
    model = alexnet(num_classes=5).double().eval()
    images = torch.randn(1, 3, 288, 256, dtype=torch.float64)
    with torch.no_grad():
        features = model.features(images)
        windows = [features[:, :, i : i + 6, j : j + 6].flatten(1) for i in range(3) for j in range(2)]
        expected = torch.stack([model.classifier(window) for window in windows]).mean(0)
        own = images[..., :224, :224]
        scores = over_positions(model, "alexnet", own)
        torch.testing.assert_close(scores(images), expected)
        # At the size of the network's input there is one position.
        torch.testing.assert_close(scores(own), model(own))


class Headed(nn.Module):
    """A convolution and a linear layer, with a function between them."""

    input_shape = (3, 8, 8)

    def __init__(self, between: Callable[[Tensor], Tensor], values: int) -> None:
        super().__init__()
        self.conv, self.between, self.fc = nn.Conv2d(3, 4, 3, padding=1), between, nn.Linear(values, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.between(self.conv(x).relu()))  # type: ignore[no-any-return]


POOLED = r"net: {} pools maps of any size to several positions, so that .*: take ten crops \(--crops ten\)"
FLATTENED = r"net: fc takes a map of several positions as one vector, so that .*--crops ten"
ALL = "its forward pass"


@pytest.mark.parametrize(
    ("between", "values", "told"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d((2, None)), nn.Flatten()), 64, POOLED.format("between.0")),
        (lambda x: F.adaptive_avg_pool2d(x, 2).flatten(1), 16, POOLED.format(ALL)),
        (lambda x: F.adaptive_max_pool2d(x, 2).flatten(1), 16, POOLED.format(ALL)),
        (lambda x: F.adaptive_avg_pool1d(x.flatten(2), 3).reshape(len(x), -1), 12, POOLED.format(ALL)),
        (lambda x: F.interpolate(x, (5, 5)).flatten(1), 100, FLATTENED),
        (lambda x: x[:, :, :3, :3].relu().reshape(len(x), -1).tanh(), 36, FLATTENED),
    ],
)
def test_networks_whose_scores_cannot_be_averaged_over_positions_are_refused(
    between: Any, values: int, told: str, folder: Path
) -> None:
    model = Headed(between, values).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad(), pytest.raises(UsageError, match=told):
        over_positions(model, "net", images[:1])(images if values != 64 else torch.randn(2, 3, 9, 8))
    # Ten crops have the size of its input.
    if values != 64:
        asked: Any = {"bn": "eval", "normalize": "imagenet", "device": "cpu"}
        result = gl.responses(model, f"imagefolder:{folder}", crops="ten", **asked)
        with torch.no_grad():
            assert result.facts("Headed")["loss"] == pytest.approx(by_hand(model, folder, "ten", 8)[1], rel=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        Headed(lambda x: x.mean((2, 3)), 4),
        Headed(lambda x: F.adaptive_avg_pool2d(x, 1).view(len(x), -1), 4),
        Headed(lambda x: F.adaptive_max_pool2d(x, (1, 1)).flatten(1), 4),
        Headed(lambda x: x.flatten(2).mean(2), 4),
        Headed(lambda x: F.avg_pool2d(x, x.shape[2:]).reshape(len(x), 4), 4),
        models.mobilenet_v3_small(num_classes=5),
        models.squeezenet1_1(num_classes=5),
    ],
)
def test_global_pooling_averages_over_positions_by_itself(model: nn.Module) -> None:
    torch.manual_seed(0)
    model, images = model.eval(), torch.randn(2, 3, 72, 65)
    with torch.no_grad():
        torch.testing.assert_close(over_positions(model, "net", images[:1])(images), model(images))


def test_a_network_of_the_name_vgg_is_taken_by_what_it_computes() -> None:
    """This one scales its images and pools globally, which a class's name does not tell."""

    class VGG(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
            self.classifier = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.features(2 * x).mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, images = VGG().eval(), torch.randn(2, 3, 9, 12)
    with torch.no_grad():
        torch.testing.assert_close(over_positions(model, "net", images[:1, :, :8, :8])(images), model(images))


class VGG(nn.Sequential):
    """A network of this name that has no classifier of linear layers, as timm's."""


def test_networks_of_the_name_without_linear_layers_pool_by_themselves() -> None:
    model, images = VGG(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(over_positions(model, "vgg", images[:1])(images), model(images))


@pytest.mark.parametrize(
    ("data", "bn", "said"),
    [("cifar10-sample", "eval", "imagefolder:PATH"), (None, "batch", "crops of one image are no")],
)
def test_crops_that_cannot_be_had(data: str | None, bn: Any, said: str, folder: Path, network: Any) -> None:
    with pytest.raises(UsageError, match=said):
        gl.responses(network, data or f"imagefolder:{folder}", bn=bn, crops="ten", device="cpu")
