"""Size and cost of a network: weighted layers, parameters and multiply-adds."""

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
        layers: The number of weighted layers as He et al. 2015 count them: convolutions and linear layers, without
            the projections of shortcuts.
        parameters: The number of parameters.
        multiply_adds: The number of multiplications of weights and activations for one image, which are the FLOPs of
            Table 1.
    """

    layers: int
    parameters: int
    multiply_adds: int


def is_projection(name: str, module: nn.Module) -> bool:
    """Return whether a layer belongs to a shortcut: a 1×1 convolution in a module so named, or that of a gate.

    The names are `shortcut` in this package, `downsample` in torchvision and timm, and `skip` and `identity` in other
    projects. A gate counts as part of the layer that it gates.
    """
    if isinstance(module, GateConvolution):
        return True
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1):
        return False
    return any(part.startswith(("shortcut", "downsample", "skip", "identity")) for part in name.split("."))


def weighted_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers that count towards the depth: convolutions and linear layers, no projections."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not is_projection(name, module)
    ]


def cost(model: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Count a network's layers, parameters and multiply-adds without computing any value.

    Args:
        model: Any network that maps (1, *input_shape) to logits.
        input_shape: The shape of one input, without the batch dimension.
    """
    return Cost(
        layers=len(weighted_layers(model)),
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=_flops(model, input_shape)["Global"] // 2,
    )


def named_cost(network: NamedNetwork) -> Cost:
    """Count the cost of one of our own networks as `cost` does, in a hundredth of the time.

    For a network of equal blocks two small networks are counted, since each further block per stage costs the same.

    Args:
        network: The network as its name describes it.
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
    """Count the cost of a network whose only products are those of convolutions, linear layers and attention.

    It runs on an empty batch, which determines the output shape of every layer without computing anything.
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
    """Count the multiply-adds of every direct child of a network that has any, in order.

    Args:
        model: Any network that maps (1, *input_shape) to logits.
        input_shape: The shape of one input, without the batch dimension.
    """
    flops = _flops(model, input_shape)
    parts = {name: flops.get(f"{type(model).__name__}.{name}", 0) // 2 for name, _ in model.named_children()}
    return {name: count for name, count in parts.items() if count}


def _flops(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Count the floating-point operations of every module by qualified name, with the total as `Global`."""
    from torch.utils.flop_counter import FlopCounterMode  # takes a second to load

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta_copy(model)(_empty(model, (1, *input_shape)).to("meta"))
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    return {"Global": 0, **counts}


def _empty(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return uninitialized inputs, which are tokens if the model has a vocabulary."""
    return torch.empty(shape, dtype=torch.long if hasattr(model, "vocabulary") else torch.float32)
