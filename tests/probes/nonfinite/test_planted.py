"""A hundred planted faults in twelve architectures: the module, the operation and the direction of each are named."""

import copy
from functools import cache
from itertools import cycle, islice
from typing import Any

import pytest
import torch
from architectures.catalog import ARCHITECTURES, loss_of
from probes.nonfinite.plants import PLANTS, Plant
from torch import nn

from gradlab.probes.nonfinite import Origin, find_nonfinite

CATALOG = {architecture.name: architecture for architecture in ARCHITECTURES}

LAYERS = {
    "resnet": ("conv1", "layer2.0.bn2", "fc"),
    "vgg": ("features.0", "features.9", "classifier.3"),
    "mobilenet-v2": ("features.0.0", "features.9.conv.2", "classifier.1"),
    "vit": ("conv_proj", "encoder.layers.encoder_layer_0.self_attention", "encoder.layers.encoder_layer_1.mlp.0"),
    "timm-convnext": ("stem.0", "stages.2.blocks.0.mlp.fc1", "head.fc"),
    "gpt2": ("transformer.wte", "transformer.h.0.attn.c_proj", "transformer.h.1.mlp.c_fc"),
    "bert": ("bert.embeddings.LayerNorm", "bert.encoder.layer.0.attention.self.key", "bert.pooler.dense"),
    "llama": ("model.embed_tokens", "model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"),
    "lstm": ("embedding", "recurrent", "head"),
    "unet": ("down1.0", "up2", "merge1.3"),
    "encoder-pre-norm": ("embed", "encoder.layers.0.linear1", "head"),
    "gpt-tied-function": ("tokens", "blocks.0.qkv", "norm"),
}
"""Three layers an architecture."""

PLANTED = [
    (name, LAYERS[name][number % 3], plant)
    for number, (name, plant) in enumerate(islice(zip(cycle(LAYERS), cycle(PLANTS[:-1]), strict=False), 96))
]


@cache
def _built(name: str) -> tuple[nn.Module, dict[str, Any]]:
    return CATALOG[name].model().float().train(), {
        key: value.float() if value.is_floating_point() else value for key, value in CATALOG[name].inputs().items()
    }


def _ready(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of an architecture, and a batch."""
    return copy.deepcopy(_built(name))


def _found(model: nn.Module, batch: dict[str, Any]) -> Origin:
    torch.manual_seed(0)
    origin = find_nonfinite(model, batch, lambda output, batch: loss_of(output))
    assert origin is not None
    return origin


@pytest.mark.parametrize(("name", "layer", "plant"), PLANTED, ids=lambda value: getattr(value, "name", value))
def test_operation_that_is_not_finite(name: str, layer: str, plant: Plant) -> None:
    model, batch = _ready(name)
    plant.into(model.get_submodule(layer))
    origin = _found(model, batch)
    assert (origin.layer, origin.operation, origin.direction) == (layer, plant.operation, plant.direction), origin
    assert origin.cause == "operation"
    assert plant.reason in origin.reason
    assert layer in str(origin)


HOLDING = {
    **dict.fromkeys(("resnet", "vgg", "mobilenet-v2", "timm-convnext", "unet", "vit"), "convolution"),
    **dict.fromkeys(("gpt2", "llama", "lstm", "gpt-tied-function"), "embedding"),
    **dict.fromkeys(("bert", "encoder-pre-norm"), "matmul"),
}
"""By architecture, what applies the weight."""


@pytest.mark.parametrize("name", HOLDING)
def test_weight_that_holds_nan(name: str) -> None:
    model, batch = _ready(name)
    layer = "bert.encoder.layer.0.attention.self.key" if name == "bert" else LAYERS[name][0]
    weight = model.get_submodule(layer).weight
    with torch.no_grad():
        weight.view(-1)[::3] = float("nan")
    origin = _found(model, batch)
    assert (origin.layer, origin.operation, origin.direction) == (layer, HOLDING[name], "forward"), origin
    assert (origin.cause, origin.tensor, origin.value) == ("weight", f"{layer}.weight", "NaN")
    assert f"the weight {layer}.weight itself holds NaN" in str(origin)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("name", ["resnet", "vit", "unet", "encoder-pre-norm"])
def test_input_that_is_not_finite(name: str, value: float) -> None:
    model, batch = _ready(name)
    batch["x"][0, 0, 0] = value
    origin = _found(model, batch)
    operation = "matmul" if name == "encoder-pre-norm" else "convolution"
    assert (origin.layer, origin.operation, origin.direction) == (LAYERS[name][0], operation, "forward"), origin
    assert origin.cause == "input"


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet", "bn1"), ("resnet", "layer3.0.downsample.1"), ("vgg", "features.5")]
)
def test_buffer_that_holds_nan(name: str, layer: str) -> None:
    model, batch = _ready(name)
    model.eval().get_submodule(layer).running_var[2] = float("nan")
    origin = _found(model, batch)
    assert (origin.layer, origin.operation, origin.direction) == (layer, "batch_norm", "forward"), origin
    assert (origin.cause, origin.tensor) == ("buffer", f"{layer}.running_var")
