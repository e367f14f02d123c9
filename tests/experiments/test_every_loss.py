"""`gradlab gradients` on every loss, data set and family: a measurement, or an error of one sentence."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab.errors import UsageError

mpl.use("agg")

CIFAR = [
    *("plain8", "plain8-ll", "plain8-width=4", "resnet8", "resnet8-B", "resnet8-C", "resnet8-beta=0.1"),
    *("resnet8-shortcut=0.5", "resnet8-preact", "resnet8-bn-after-add", "resnet8-relu-before-add"),
]
FULLY_CONNECTED = [
    *("mlp4", "mlp4-ll", "mlp4-norm=none", "mlp4-norm=bn", "mlp4-norm=rms", "mlp4-norm=center", "mlp4-bias=0"),
    *("resmlp4", "resmlp4-norm=none", "resmlp4-beta=0.1"),
]
NETS = """
import torch
from torch import nn


def flat():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def maps():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


def one_number():
    return nn.Sequential(flat(), nn.Linear(10, 1), nn.Flatten(0))
"""
SMALL = {"images": 6, "batch_size": 4, "seeds": 1}


def measured(model: str, data: str, loss: str, *, drawn: bool = True, **options: object) -> None:
    """Every operation of the command on a result, or all but drawing, which is alike for networks of a family."""
    result = gl.gradients(model, data, loss=loss, **SMALL, **options)
    assert np.isfinite(result.frame["grad_norm"].dropna().astype(float)).all()
    assert len(result.summary()) == 1
    result.findings()
    if drawn:
        result.plot()
        plt.close("all")


@pytest.fixture
def array_data(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    np.savez(path, x_test=images, y_test=np.arange(6), x_train=images, y_train=np.arange(6))
    return str(path)


WAYS: list[tuple[str, str, dict[str, object]]] = [
    ("noise", "sum", {}),
    ("noise", "sum", {"mode": "responses", "bn": "eval"}),
    ("noise", "sum", {"per_example": True}),
    ("cifar10-sample", "sum", {}),
    ("cifar10-sample", "cross-entropy", {"per_example": True, "dtype": "float64"}),
]


def pairs() -> list[Any]:
    """Every network in one way, and the first in all; every other pair in the thorough tests."""
    return [
        pytest.param(name, *way, marks=() if i == 0 or (i - j) % len(WAYS) == 0 else pytest.mark.thorough)
        for i, name in enumerate(CIFAR)
        for j, way in enumerate(WAYS)
    ]


@pytest.mark.parametrize(("name", "data", "loss", "options"), pairs())
def test_cifar_networks(name: str, data: str, loss: str, options: dict[str, object]) -> None:
    measured(f"{name}@init", data, loss, drawn=name == CIFAR[0], **options)


@pytest.mark.parametrize("name", ["plain8", "mlp4", "torchvision/squeezenet1_1"])
def test_noise_has_no_labels(name: str) -> None:
    with pytest.raises(UsageError, match="noise has no labels, which cross-entropy needs: loss sum"):
        measured(f"{name}@init", "noise", "cross-entropy")


@pytest.mark.parametrize("name", FULLY_CONNECTED)
def test_fully_connected_networks(name: str) -> None:
    measured(f"{name}-width=20@init", "noise", "sum", drawn=False)
    measured(f"{name}-width=20@init", "noise", "sum", drawn=name == "mlp4", mode="responses", bn="eval")


@pytest.mark.parametrize("loss", ["cross-entropy", "sum"])
@pytest.mark.parametrize("name", ["mlp4", "resmlp4"])
def test_fully_connected_networks_take_no_images(name: str, loss: str) -> None:
    with pytest.raises(UsageError, match=r"takes inputs of shape \(1,\), not images of shape .* data noise"):
        measured(f"{name}@init", "cifar10-sample", loss)


@pytest.mark.parametrize("name", ["flat", "maps", "one_number"])
def test_user_functions(name: str, array_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses_of_mine.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    for data in ("noise", "cifar10-sample", array_data, f"{array_data}:train"):
        measured(f"losses_of_mine:{name}", data, "sum", per_example=True, drawn=data == "noise")
        if name == "flat" and data != "noise":
            measured(f"losses_of_mine:{name}", data, "cross-entropy", per_example=True, drawn=False)
        else:
            with pytest.raises(UsageError, match="loss sum"):
                measured(f"losses_of_mine:{name}", data, "cross-entropy")


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/squeezenet1_1",
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("imagenet/plain18", "imagenet/resnet18")),
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("torchvision/resnet18", "timm/resnet10t")),
    ],
)
def test_imagenet_networks(name: str) -> None:
    measured(f"{name}@init", "noise", "sum")


@pytest.mark.parametrize(
    "name", ["vit2-width=32", pytest.param("timm/vit_tiny_patch16_224", marks=pytest.mark.thorough)]
)
def test_a_vision_transformer(name: str) -> None:
    measured(f"{name}@init", "noise", "sum", dtype="float32")


def test_the_gradient_of_a_sum_is_an_expanded_tensor() -> None:
    from gradlab.stats.norms import row_norms

    for shape in ((4, 10), (2, 4, 30, 30), (8, 4096)):
        for inner in (shape[:1] + (1,) * (len(shape) - 1), (1,) * len(shape), (1, *shape[1:])):
            gradient = torch.ones(inner).expand(shape)
            assert row_norms(gradient).norm().item() == pytest.approx(gradient.numel() ** 0.5)
