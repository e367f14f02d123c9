"""Every network that the papers name, under every measurement: whole, finite, and in order.

The networks run on small images. Those that take long do so in the thorough tests, and a network of their family and of
less depth or width here.
"""

from typing import Any

import numpy as np
import pytest
from torch import nn

import gradlab as gl

SHORTCUTS = ("shortcut=0.5", "shortcut=0.5-beta=0.5", "exclusive-gate=-6", "shortcut-gate=-6", "shortcut-dropout=0.5")
UNITS = ("preact", "relu-preact", "relu-before-add", "bn-after-add")

QUICK = [
    "plain8",
    "plain8-ll",
    "plain8-crelu",
    "resnet8",
    "resnet8-B",
    "resnet8-C",
    *(f"resnet8-{shortcut}" for shortcut in SHORTCUTS),
    *(f"resnet8-{unit}" for unit in UNITS),
    "resnet11-bottleneck",
    "resnet11-bottleneck-preact",
    "imagenet/plain18",
    "imagenet/resnet18",
    "imagenet/resnet50-width=16",
    "highway19-width=8",
    "densenet22-k12",
    "densenet22-bc-k12",
    "vovnet27-slim-width=8",
    "imagenet/vovnet39-width=8",
    "mlp10-width=30",
    "mlp10-ll-width=30",
    "resmlp10-beta=0.1-width=30",
    "gpt2-width=32-vocab=16-context=8",
    "vit2-width=32",
]
"""The families, at depths and widths that run in a fraction of a second."""

WHOLE = [
    *(f"{family}{depth}" for family in ("plain", "resnet") for depth in (20, 32, 44, 56, 110)),
    "resnet1202",
    "plain20-ll",
    "plain56-ll",
    "resnet110-C",
    *(f"resnet110-{shortcut}" for shortcut in SHORTCUTS),
    *(f"resnet110-{unit}" for unit in UNITS),
    "resnet164",
    "resnet164-preact",
    "resnet1001-preact",
    "imagenet/plain34",
    *(f"imagenet/resnet{depth}" for depth in (34, 50, 101, 152)),
    "imagenet/vgg16",
    "imagenet/vgg19",
    "highway19",
    "highway32",
    "densenet40-k12",
    "densenet100-bc-k12",
    *(f"{form}vovnet{size}" for form in ("", "imagenet/") for size in ("27-slim", "39", "57")),
    "mlp50",
    "mlp50-ll",
    "resmlp50-beta=0.1",
    "gpt12",
    "vit12",
]
"""The networks of the papers themselves."""

SYSTEMS = [*QUICK, *(pytest.param(name, marks=pytest.mark.thorough) for name in WHOLE)]

SIDE = 64
"""The height and width of the images of networks for ImageNet, except for VGG, whose linear layers take 224 alone."""


def system(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A network at initialization, and what its measurements have in common."""
    model = gl.build(f"{name}@init")
    images = 4
    if name.startswith("imagenet/vgg"):
        images = 2
    elif name.startswith("imagenet/"):
        model.input_shape = (3, SIDE, SIDE)  # type: ignore[assignment]
    data = "tokens" if hasattr(model, "vocabulary") else "noise"
    return model, {"data": data, "images": images, "batch_size": images, "device": "cpu", "bn": "batch"}


def weighted(model: nn.Module, *, shortcuts: bool) -> set[str]:
    """The layers with a weight, with or without those of shortcuts, whose names say so in our networks."""
    kinds = nn.Conv2d | nn.Linear | nn.Embedding
    return {n for n, m in model.named_modules() if isinstance(m, kinds) and (shortcuts or "shortcut" not in n)}


@pytest.mark.parametrize("name", SYSTEMS)
def test_responses(name: str) -> None:
    """Of all layers with a weight; the response of a layer that precedes a normalization has a std of 1."""
    model, asked = system(name)
    frame = gl.responses(model, layers="*", **asked).frame
    assert weighted(model, shortcuts=True) <= {*frame["layer"]}
    assert np.isfinite(frame["std"]).all()
    assert (frame["std"] > 0).all()
    assert sorted(set(frame["index"])) == [*range(1, frame["index"].max() + 1)]


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradients(name: str) -> None:
    """Of all layers on the path, each with a norm above 0; the first row is the layer that runs first."""
    model, asked = system(name)
    frame = gl.gradients(model, loss="sum", **asked).layers()
    assert weighted(model, shortcuts=False) <= {*frame["layer"]}
    norms = frame["grad_norm"].astype(float)
    assert np.isfinite(norms).all()
    assert (norms > 0).any()
    first = next(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding))
    assert frame["layer"].iloc[0] == first


@pytest.mark.parametrize("name", SYSTEMS)
def test_signal(name: str) -> None:
    """Of blocks in order: as many as the network has additions, or parts that repeat."""
    model, asked = system(name)
    frame = gl.signal(model, loss="sum", **asked).frame
    blocks = frame.drop_duplicates("index", keep="last")
    assert [*blocks["index"]] == [*range(1, len(blocks) + 1)]
    assert np.isfinite(blocks["stream_total_std"]).all()
    assert (blocks["stream_total_std"] > 0).all()
    stages = [m for n, m in model.named_children() if n.startswith("layer") and isinstance(m, nn.Sequential)]
    if any(hasattr(block, "shortcut") for stage in stages for block in stage):
        assert len(blocks) == sum(len(stage) for stage in stages)


@pytest.mark.parametrize("name", SYSTEMS)
def test_shatter(name: str) -> None:
    """The effective rank of so few gradients relative to noise, in its range."""
    model, asked = system(name)
    result = gl.input_gradients(model, points=4, lags=1, **asked)
    value, _ = result.value(result.networks[0], "relative_effective_rank")
    assert 0 < value < 1.2
