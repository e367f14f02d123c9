"""Finds the origin of the first non-finite value of one batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gradlab.errors import UsageError
from gradlab.probes.nonfinite.origin import Origin
from gradlab.probes.nonfinite.probe import NonfiniteOrigin
from gradlab.probes.nonfinite.untouched import untouched
from gradlab.probes.outputs import describe, measurable

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler


def find_nonfinite(
    model: nn.Module,
    batch: Any,
    loss: Callable[..., Tensor] | None = None,
    *,
    scaler: GradScaler | float | None = None,
    autocast: torch.dtype | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Origin | None:
    """Find the first non-finite value that reaches the loss or a gradient, with its layer, operation and reason.

        origin = gl.find_nonfinite(model, (images, labels), torch.nn.functional.cross_entropy)
        print(origin)  # log in layer head.norm (LogNorm) gives the first −inf, in the forward pass: the logarithm …

    The function runs one forward and one backward pass in the current mode of the model and examines every operation.
    It restores weights, gradients, buffers and random states. A value that becomes finite again is not a fault, such as
    the −inf of masked attention.

    Args:
        model: Any `torch.nn.Module`.
        batch: A tensor, a tuple or list of arguments, or a mapping of named arguments. The last element of a tuple is
            the target if a loss is given, or if the model takes one argument less.
        loss: A function of output and target, or of output and batch if the batch is a mapping, that returns one
            number. None uses the `loss` of the model's output if it has one, and otherwise a sum of the outputs with
            random signs, which is never non-finite itself; infinities that the model returns deliberately are then not
            a fault.
        scaler: A GradScaler, or the number by which it multiplies the loss.
        autocast: The dtype of `torch.autocast` under which the model runs; None runs it without autocast.
        weights: Tensors that replace those of the model, as with `torch.func.functional_call`.

    Returns:
        The origin of the value; None if the loss and every gradient are finite.

    Raises:
        UsageError: If the model does not accept the batch, or the loss is not one number.
    """
    scale = scaler if isinstance(scaler, int | float) else 1.0 if scaler is None else scaler.get_scale()

    def search(scale: float) -> Origin | None:
        with untouched(model), NonfiniteOrigin(model) as probe:
            return _search(probe, model, batch, loss, scale, autocast, weights)

    origin = search(scale)
    if origin is None or scale == 1 or origin.cause != "operation" or search(1.0) is not None:
        return origin
    why = f"{origin.reason}; with the loss not multiplied by {scale:g} it is finite, and a GradScaler skips such a step"
    return replace(origin, cause="scale", reason=why)


def _search(
    probe: NonfiniteOrigin,
    model: nn.Module,
    batch: Any,
    loss: Callable[..., Tensor] | None,
    scale: float,
    autocast: torch.dtype | None,
    weights: Mapping[str, Tensor] | None,
) -> Origin | None:
    probe.name_inputs(batch)
    args, kwargs, target = _arguments(model, batch, loss)
    device = next((tensor.device.type for tensor in model.parameters()), "cpu")
    with torch.enable_grad(), nullcontext() if autocast is None else torch.autocast(device, autocast):
        output = model(*args, **kwargs) if weights is None else functional_call(model, dict(weights), args, kwargs)
        value = _loss(output, target, loss)
    trained = [tensor for tensor in (weights or dict(model.named_parameters())).values() if tensor.requires_grad]
    forward = [tensor for _, tensor in measurable(output)] if value is None else [value]
    summed = _some_sum(forward) if value is None else value * scale if scale != 1 else value
    gradients = _gradients(summed, trained)
    return probe.trace([*forward, summed], gradients, masks=value is None)


def _arguments(
    model: nn.Module, batch: Any, loss: Callable[..., Tensor] | None
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """The arguments of the model, and the target."""
    if isinstance(batch, Mapping):
        return (), dict(batch), batch
    if isinstance(batch, Tensor):
        return (batch,), {}, None
    if not isinstance(batch, tuple | list) or not batch:
        raise UsageError(f"a batch is a tensor, a tuple, a list or a mapping of them, not {describe(batch)}")
    takes_all = loss is None and _takes(model, len(batch))
    return (tuple(batch), {}, None) if takes_all else (tuple(batch[:-1]), {}, batch[-1])


def _takes(model: nn.Module, count: int) -> bool:
    try:
        inspect.signature(model.forward).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _loss(output: Any, target: Any, loss: Callable[..., Tensor] | None) -> Tensor | None:
    value: Any
    if loss is not None:
        value = loss(output) if target is None else loss(output, target)
    else:
        value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if not isinstance(value, Tensor):
            return None
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UsageError(f"the loss gives one number as a tensor, not {describe(value)} of {_shape(value)}")
    return value


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else "another kind"


def _some_sum(outputs: list[Tensor]) -> Tensor:
    """The mean of all finite outputs with random signs, in double precision so that it never overflows."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        finite = torch.where(output.isfinite(), output, 0)
        parts = torch.view_as_real(finite) if finite.is_complex() else finite
        signs = 2 * torch.randint(2, parts.shape, generator=generator) - 1
        total = total + (parts.double() * signs.to(parts.device)).mean().cpu()
    return total


def _gradients(loss: Tensor, weights: list[Tensor]) -> list[Tensor]:
    if not loss.requires_grad or not weights:
        return []
    found: tuple[Tensor | None, ...]
    try:
        found = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    except RuntimeError as error:
        if "checkpoint" not in str(error).lower():
            raise
        # Reentrant checkpointing allows no other call; gradients are restored afterwards.
        for weight in weights:
            weight.grad = None
        loss.backward()
        found = tuple(weight.grad for weight in weights)
    return [gradient for gradient in found if gradient is not None]
