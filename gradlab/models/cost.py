"""What a network is made of and what it costs: weighted layers, parameters, multiply-adds."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gradlab.models.meta import meta_copy


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
    """Whether a layer is the projection of a shortcut: a 1×1 convolution on a path so named.

    The names are those of this package (`shortcut`) and of torchvision and timm (`downsample`), and
    `skip` and `identity`, which other projects use.
    """
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
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta_copy(model)(torch.empty(1, *input_shape, device="meta"))
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    return {"Global": 0, **counts}
