"""What a network is made of and what it costs: weighted layers, parameters, multiply-adds."""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from gradlab.models.description import NamedNetwork
from gradlab.models.meta import meta_copy
from gradlab.models.shortcuts import GateConvolution
from gradlab.models.transformer.block import Attention


@dataclass(frozen=True)
class Cost:
    """Size and cost of a network for one image.

    Attributes:
        layers: Weighted layers as He et al. 2015 count them: convolutions and linear layers, the
            projections of shortcuts left out.
        parameters: Trainable values.
        multiply_adds: Multiplications of weights and activations for one image: the FLOPs of Table 1.
    """

    layers: int
    parameters: int
    multiply_adds: int


def is_projection(name: str, module: nn.Module) -> bool:
    """Whether a layer belongs to a shortcut: a 1×1 convolution on a path so named, or the convolution of a gate.

    The names are those of this package (`shortcut`) and of torchvision and timm (`downsample`), and
    `skip` and `identity`, which other projects use. A gate counts with the layer that it gates.
    """
    if isinstance(module, GateConvolution):
        return True
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1):
        return False
    return any(part.startswith(("shortcut", "downsample", "skip", "identity")) for part in name.split("."))


def weighted_layers(model: nn.Module) -> list[str]:
    """The layers that count towards a network's depth: convolutions and linear layers, no projections."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not is_projection(name, module)
    ]


def cost(model: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Count a network's layers, parameters and multiply-adds, without computing or drawing anything.

    Args:
        model: Any network that maps (1, *input_shape) to logits.
        input_shape: Shape of one input, without the batch.
    """
    return Cost(
        layers=len(weighted_layers(model)),
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=_flops(model, input_shape)["Global"] // 2,
    )


def named_cost(network: NamedNetwork) -> Cost:
    """Count one of our own networks without drawing its weights; as `cost`, in a hundredth of the time.

    Of a network of equal blocks two small ones are counted: every further block a stage costs as much as the last.

    Args:
        network: What its name says.
    """
    if (rule := network.regular()) is None:
        return _skeleton_cost(network)
    one, two = (_skeleton_cost(small) for small in rule[:2])
    return Cost(
        layers=one.layers + rule[2] * (two.layers - one.layers),
        parameters=one.parameters + rule[2] * (two.parameters - one.parameters),
        multiply_adds=one.multiply_adds + rule[2] * (two.multiply_adds - one.multiply_adds),
    )


@cache
def _skeleton_cost(network: NamedNetwork) -> Cost:
    """The cost of a network whose products are all those of convolutions, linear layers and attention.

    It runs on no inputs at all, (0, …), which gives every layer's output its shape and computes nothing.
    """
    model, multiply_adds = network.skeleton(), 0

    def add(module: nn.Module, args: object, output: Tensor) -> None:
        nonlocal multiply_adds
        if isinstance(module, Attention):
            multiply_adds += module.multiply_adds(output)
            return
        weight = module.weight
        assert isinstance(weight, Tensor)
        multiply_adds += math.prod(output.shape[1:]) * weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | Attention):
            module.register_forward_hook(add)
    with torch.no_grad():
        model.eval()(_empty(model, (0, *model.input_shape)))  # type: ignore[misc]
    return Cost(len(weighted_layers(model)), sum(p.numel() for p in model.parameters()), multiply_adds)


def multiply_adds_by_part(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """The multiply-adds of every direct child of a network that has any, in order.

    Args:
        model: As in `cost`.
        input_shape: Shape of one input, without the batch.
    """
    flops = _flops(model, input_shape)
    parts = {name: flops.get(f"{type(model).__name__}.{name}", 0) // 2 for name, _ in model.named_children()}
    return {name: count for name, count in parts.items() if count}


def _flops(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Floating-point operations of every module by qualified name, and of all as `Global`."""
    from torch.utils.flop_counter import FlopCounterMode  # loads what takes a second

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta_copy(model)(_empty(model, (1, *input_shape)).to("meta"))
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    return {"Global": 0, **counts}


def _empty(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Inputs without values: tokens where the model has a vocabulary."""
    return torch.empty(shape, dtype=torch.long if hasattr(model, "vocabulary") else torch.float32)
