"""How each kind of module's parameter gradients are taken apart into those of single examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from gradlab.errors import GradlabError
from gradlab.probes.finder import output_tensor
from gradlab.stats import (
    ExampleContributions,
    Geometry,
    OuterGradients,
    RowGradients,
    convolution_gradients,
    normalization_gradients,
    positions_sum,
)

Contributions = dict[str, ExampleContributions]
"""What one call of a module adds to the gradients of its parameters, by the parameters' names in the module."""

Rule = Callable[[Any, Tensor, Tensor], Contributions]
"""From the module, its input and the gradient of its output."""

_CHUNK = 1 << 22
"""Parameter values times examples that `vmap` works on at a time."""


def example_contributions(
    name: str,
    module: nn.Module,
    rule: Rule | None,
    wanted: list[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    gradient: Tensor,
) -> Contributions:
    """The gradients of a module's own parameters, example by example.

    Args:
        name: The module's, for errors.
        module: What was called.
        rule: What `exact_rule` gives for it.
        wanted: The names of its parameters to give.
        args: What it was called with.
        kwargs: What it was called with by name.
        gradient: Of its output, its first dimension the examples.

    Raises:
        GradlabError: Where the module cannot be called for one example at a time.
    """
    if rule is None:
        return _by_vmap(name, module, wanted, args, kwargs, gradient)
    x, g = _common(args[0] if args else next(iter(kwargs.values())), gradient)
    found = rule(module, x, g)
    return {parameter: found[parameter] for parameter in wanted}


def exact_rule(module: nn.Module) -> Rule | None:
    """The rule for torch's own layers; a module that has its own forward may do anything, and has none."""
    if "forward" in vars(module):
        return None
    forward = type(module).forward
    own = {name for name, _ in module.named_parameters()}
    if hasattr(module, "parametrizations") or not own <= {"weight", "bias"}:
        return None
    if forward is nn.Linear.forward:
        return _linear
    if forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward):
        inner = (nn.Conv1d._conv_forward, nn.Conv2d._conv_forward, nn.Conv3d._conv_forward)
        if getattr(type(module), "_conv_forward", None) not in inner:
            return None
        zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return _convolution(module) if zeros else None
    if forward is nn.BatchNorm2d.forward:
        return _batch_norm
    return None


def works_with(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether a module uses a trainable parameter as it is now, and not something else in its place.

    Args:
        module: That has the parameter.
        name: Of the parameter in the module; one of a part of it is taken to be used.
        parameter: The model's.
    """
    return parameter.requires_grad and ("." in name or module._parameters.get(name) is parameter)


def trained_by(module: nn.Module) -> set[str]:
    """Which of weight and bias of a module with an exact rule want a gradient, parameters or not."""
    # Where one was deleted, anything may stand as an attribute.
    instead = vars(module)
    tensors = {name: instead.get(name, module._parameters.get(name)) for name in ("weight", "bias")}
    return {name for name, tensor in tensors.items() if tensor is not None and tensor.requires_grad}


def _linear(module: nn.Linear, x: Tensor, g: Tensor) -> Contributions:
    a, b = (t.reshape(len(t), math.prod(t.shape[1:-1]), t.shape[-1]) for t in (x, g))
    return {"weight": OuterGradients(a, b), "bias": RowGradients(b.sum(1))}


def _convolution(module: Any) -> Rule:
    geometry = Geometry(tuple(module.weight.shape), module.stride, module.padding, module.dilation, module.groups)

    def rule(module: Any, x: Tensor, g: Tensor) -> Contributions:
        contributions: Contributions = {"weight": convolution_gradients(x, g, geometry)}
        if module.bias is not None:
            contributions["bias"] = RowGradients(positions_sum(g))
        return contributions

    return rule


def _batch_norm(module: _BatchNorm, x: Tensor, g: Tensor) -> Contributions:
    assert module.running_mean is not None
    assert module.running_var is not None
    scale, shift = normalization_gradients(x, g, module.running_mean, module.running_var, module.eps)
    return {"weight": scale, "bias": shift}


def _common(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one precision, at least single: mixed precision computes a layer in another one than its input's."""
    if x.dtype is g.dtype is torch.float32:
        return x, g
    dtype = torch.promote_types(torch.promote_types(x.dtype, g.dtype), torch.float32)
    return x.to(dtype), g.to(dtype)


def _by_vmap(
    name: str, module: nn.Module, wanted: list[str], args: tuple[Any, ...], kwargs: dict[str, Any], gradient: Tensor
) -> Contributions:
    """By differentiating the module anew, each example by itself."""
    parameters = {key: value.detach() for key, value in module.named_parameters() if key in wanted}
    precision = next(iter(parameters.values())).dtype
    examples, numel = len(gradient), sum(value.numel() for value in parameters.values())

    def matches(value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == examples

    # The module's own buffers are those of the forward pass, and stay as they are.
    buffers = {key: buffer.clone() for key, buffer in module.named_buffers()}
    what = f"{name or 'the model'} ({type(module).__name__})"
    keys, values = [*range(len(args)), *kwargs], [*args, *kwargs.values()]
    batched = {k: _as(v.detach(), precision) for k, v in zip(keys, values, strict=True) if matches(v)}

    def pull_back(inputs: dict[int | str, Tensor], g: Tensor) -> dict[str, Tensor]:
        def output(values: dict[str, Tensor]) -> Tensor:
            given = {k: v[None] for k, v in inputs.items()}
            called = [given.get(i, value) for i, value in enumerate(args)]
            state = {**values, **buffers}
            result = functional_call(module, state, tuple(called), {k: given.get(k, v) for k, v in kwargs.items()})
            return output_tensor(name, result)

        out, back, *_ = vjp(output, parameters)
        (found,) = back(g[None].to(out.dtype))
        return cast(dict[str, Tensor], found)

    try:
        if not batched:
            raise RuntimeError(f"no input has {examples} as its first dimension, as its output has")
        found = vmap(pull_back, chunk_size=max(1, _CHUNK // numel))(batched, gradient.detach())
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise GradlabError(f"{what} cannot be called for single examples: {reason}; layers= selects others") from error
    changed = [key for key, buffer in buffers.items() if buffer._version]
    if changed:
        raise GradlabError(
            f"{what} changes {changed[0]} whenever it is called, so that its forward pass "
            "cannot be repeated for single examples: call model.eval() first, or layers= selects others"
        )
    return {key: RowGradients(_as(rows.flatten(1), precision)) for key, rows in found.items()}


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def owned_parameters(model: nn.Module) -> Iterator[tuple[str, dict[str, nn.Parameter]]]:
    """The modules whose call uses parameters, with these by their names in the module.

    A parametrized module owns what its parametrizations are made of, and attention that of its projections, whose
    modules it never calls.
    """
    inside: set[str] = set()
    for name, module in model.named_modules():
        if name in inside:
            continue
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.MultiheadAttention):
            inside.update(f"{prefix}{child}" for child, _ in module.named_modules() if child)
            yield name, dict(module.named_parameters())
        elif hasattr(module, "parametrizations"):
            own = [n for n, _ in module.named_modules() if n.startswith("parametrizations")]
            inside.update(f"{prefix}{child}" for child in own)
            yield name, {n: p for n, p in module.named_parameters() if "." not in n or n.startswith("parametrizations")}
        else:
            yield name, dict(module.named_parameters(recurse=False))
