"""Initialization of weights from an explicit seed."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Undrawn(TorchFunctionMode):
    """Leaves out every random initialization, so that new parameters keep whatever their memory holds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (Tensor.uniform_, Tensor.normal_):
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def materialize(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module with allocated but uninitialized parameters, skipping the layers' own initialization.

    Nothing is drawn from the global generator, and ResNet-1202 is built in about a second.
    """
    with _Undrawn():
        return make()


@torch.no_grad()
def he_initialize(model: nn.Module, seed: int) -> nn.Module:
    """Initialize in place: weights from N(0, 2/n), biases 0, normalization as the identity.

    Biases start at the layer's attribute `initial_bias` if it has one: those of gates start below 0.

    This is Eq. 10 of He et al. 2015b (arXiv:1502.01852), where n = k²·c is the fan-in, which keeps the second moment
    of the responses constant with depth in ReLU nets. The residual paper (arXiv:1512.03385, §3.4) says "as in [13]",
    which allows fan-in as well as fan-out (Eq. 14); the two differ only where the number of channels changes.

    The body is drawn before the projections of shortcuts, so that networks of equal depth and seed have bitwise equal
    weights whatever their shortcuts, including plain nets.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for _, layer in sorted(layers, key=lambda item: "shortcut" in item[0]):
        fan_in = layer.weight[0].numel()
        layer.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
        if layer.bias is not None:
            layer.bias.fill_(getattr(layer, "initial_bias", 0.0))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model
