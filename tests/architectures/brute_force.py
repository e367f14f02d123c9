"""What a probe must find, the slow and obvious way: with torch's own gradients and plain hooks, and none of ours."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from architectures.catalog import Batch, example, examples_of, loss_of
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

Part = tuple[nn.Parameter, Any]
"""A parameter, and the index of what counts of it."""

Rows = dict[str, list[Part]]
"""The parts of what is trained by the name of the row."""

_ALL = ...
_THIRDS = ("query", "key", "value")


def rows_of(model: nn.Module, everything: bool = False) -> Rows:
    """The rows that a model must have: a layer's `weight` under its name, attention's in parts, others under their own.

    Args:
        model: Any.
        everything: Whether those of biases, gains and vectors are wanted as well.
    """
    rows: Rows = {}
    for name, module in model.named_modules():
        if isinstance(module, ParametrizationList):
            continue
        prefix = f"{name}." if name else ""
        own = dict(module.named_parameters(recurse=False))
        parametrized = getattr(module, "parametrizations", {})
        if isinstance(module, nn.MultiheadAttention):
            for i, part in enumerate(_THIRDS):
                rows[f"{prefix}{part}"] = [_third(module, own, i)]
        elif "weight" in parametrized:
            rows[name] = [(p, _ALL) for p in parametrized["weight"].parameters()]
        elif "weight_g" in own:
            rows[name] = [(own.pop("weight_g"), _ALL), (own.pop("weight_v"), _ALL)]
        elif "weight" in own and own["weight"].ndim >= 2:
            rows[name] = [(own.pop("weight"), _ALL)]
        for key, parameter in own.items():
            if parameter.ndim >= 2 or everything:
                rows[f"{prefix}{key}"] = [(parameter, _ALL)]
    return rows


def _third(module: nn.MultiheadAttention, own: dict[str, nn.Parameter], i: int) -> Part:
    width = module.embed_dim
    if "in_proj_weight" in own or i:
        packed = own.pop("in_proj_weight") if i == 2 and "in_proj_weight" in own else own.get("in_proj_weight")
        if packed is not None:
            return packed, slice(i * width, (i + 1) * width)
    return own.pop(f"{'qkv'[i]}_proj_weight"), _ALL


def norm_of(parts: list[Part], gradients: dict[nn.Parameter, Tensor]) -> float | None:
    """The norm of a row's gradient, None where it has none."""
    found = [gradients[p][rows] for p, rows in parts if p in gradients]
    return math.hypot(*(g.abs().double().norm().item() for g in found)) if found else None


def gradients_of(model: nn.Module, batch: Batch) -> dict[nn.Parameter, Tensor]:
    """Of the loss of a batch, by parameter; parameters that it does not depend on are left out."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss_of(model(**batch)), parameters, allow_unused=True)
    return {p: g for p, g in zip(parameters, found, strict=True) if g is not None}


def example_gradients_of(model: nn.Module, batch: Batch) -> list[dict[nn.Parameter, Tensor]]:
    """Of every example by itself."""
    return [gradients_of(model, example(batch, i)) for i in range(examples_of(batch))]


Site = tuple[str, int]

_APPLIES: set[Callable[..., Any]] = {
    F.linear,
    F.bilinear,
    F.embedding,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    torch.mm,
    torch.mv,
    torch.inner,
    torch.tensordot,
    torch.bmm,
    torch.einsum,
    torch.addmm,
    torch._grouped_mm,
    F.grouped_mm,
    *(getattr(F, f"conv{t}{d}d") for t in ("", "_transpose") for d in (1, 2, 3)),
}

_WEIGHT_SECOND = {F.linear, F.embedding, F.bilinear, *(f for f in _APPLIES if f.__name__.startswith("conv"))}


class _Applications(TorchFunctionMode):
    """Sees the weights that are applied by function, outside of the call of the module that owns them."""

    def __init__(self, recorder: "_Recorder") -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:  # type: ignore[type-arg]
        result = function(*args, **(kwargs or {}))
        if function in _APPLIES:
            tensors = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Tensor)]
            owned = [self.recorder.owners_of(tensor) for tensor in tensors]
            # A layer's input may be a parameter, and a weight may be made of two.
            if function in _WEIGHT_SECOND:
                owned[0] = []
            weights = [owners for owners in owned if owners]
            if len(weights) == 1 and not any(owner in self.recorder.running for owner in weights[0]):
                return self.recorder.kept(weights[0][0], result)
        return result


def _identity(tensor: Tensor) -> object:
    """What two tensors share that are the same values at the same place, seen in the same way."""
    memory = 0 if torch._C._functorch.is_batchedtensor(tensor) else tensor.untyped_storage().data_ptr()
    return memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor._version


class _Recorder:
    """The response of each call of each layer, kept as it was, and part of the graph.

    What goes on in the network is a copy of it, so that what the network does in place harms neither.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.responses, self.running = model, dict[Site, Tensor](), list[str]()
        self._calls: dict[str, int] = {}
        self._copies: dict[object, tuple[Tensor, Site]] = {}
        self._owners: dict[int, list[str]] = {}
        for name, parts in rows_of(model).items():
            for parameter, _ in parts:
                self._owners.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)

    def owners_of(self, tensor: Any) -> list[str]:
        """The rows of which a tensor is the weight, or a part or view of it."""
        if not isinstance(tensor, Tensor) or not tensor.numel():
            return []
        return self._owners.get(tensor.untyped_storage().data_ptr(), [])

    def kept(self, name: str, response: Tensor) -> Tensor:
        self._calls[name] = self._calls.get(name, 0) + 1
        site = name, self._calls[name]
        self.responses[site] = response
        copy = response.clone()
        self._copies[_identity(copy)] = copy, site
        return copy

    def after_layer(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if self.running and self.running[-1] == name:
                self.running.pop()
            if isinstance(output, tuple):
                return (self.kept(name, output[0]), *output[1:])
            return self.kept(name, output)

        return hook

    def after_norm(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not args or _identity(args[0]) not in self._copies:
            return None
        _, site = self._copies.pop(_identity(args[0]))
        fused = _without_activation(module, args[0])
        self.responses[site] = output if fused is None else fused
        return output.clone() if fused is None else module.act(module.drop(fused.clone()))


def _without_activation(module: nn.Module, x: Tensor) -> Tensor | None:
    """What timm's normalizations give before the activation that they hold inside."""
    if isinstance(getattr(module, "act", None), nn.Identity) or not hasattr(module, "act"):
        return None
    if isinstance(module, nn.BatchNorm2d):
        return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps)
    return F.group_norm(x, module.num_groups, module.weight, module.bias, module.eps)


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[Site, Tensor]]:
    """The responses of all that runs inside, by layer and call, in order of execution."""
    recorder, rows = _Recorder(model), rows_of(model)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                forward = _attention(module, name, recorder)
                stack.enter_context(mock.patch.object(module, "forward", forward))
            elif name in rows and name:
                stack.callback(module.register_forward_pre_hook(lambda *_, n=name: recorder.running.append(n)).remove)
                stack.callback(module.register_forward_hook(recorder.after_layer(name)).remove)
            elif isinstance(module, nn.RNNBase):
                inner = [n for n in rows if n.startswith(f"{name}.")]
                stack.callback(module.register_forward_pre_hook(lambda *_, i=inner: recorder.running.extend(i)).remove)
                stack.callback(module.register_forward_hook(recorder.after_layer(name)).remove)
            elif "norm" in type(module).__name__.lower() and not any(n.startswith(f"{name}.") for n in rows):
                stack.callback(module.register_forward_hook(recorder.after_norm).remove)
        with _Applications(recorder):
            yield recorder.responses


def _attention(module: nn.MultiheadAttention, name: str, recorder: _Recorder) -> Callable[..., Any]:
    """Attention written out, so that its projections can be had."""

    def forward(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, is_causal: bool = False, **_: Any
    ) -> Any:
        with torch._C.DisableTorchFunction():
            signals = (query, key, value) if module.batch_first else (t.transpose(0, 1) for t in (query, key, value))
            biases = module.in_proj_bias.chunk(3) if module.in_proj_bias is not None else [None] * 3
            packed = None if module.in_proj_weight is None else module.in_proj_weight.chunk(3)
            projected = []
            for i, (signal, bias) in enumerate(zip(signals, biases, strict=True)):
                weight = packed[i] if packed is not None else getattr(module, f"{'qkv'[i]}_proj_weight")
                projected.append(recorder.kept(f"{name}.{_THIRDS[i]}".lstrip("."), F.linear(signal, weight, bias)))
            if module.bias_k is not None:
                for i, extra in ((1, module.bias_k), (2, module.bias_v)):
                    projected[i] = torch.cat([projected[i], extra.expand(len(query), -1, -1)], 1)
            q, k, v = (p.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for p in projected)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=is_causal and attn_mask is None)
            out = F.linear(mixed.transpose(1, 2).flatten(2), module.out_proj.weight, module.out_proj.bias)
            out = recorder.kept(f"{name}.out_proj".lstrip("."), out)
            return out if module.batch_first else out.transpose(0, 1), None

    return forward


def responses_of(model: nn.Module, batch: Batch) -> dict[Site, tuple[float, float | None]]:
    """Std of each site's response, and the norm of the loss's gradient by it, None where there is none."""
    with recorded(model) as found:
        loss = loss_of(model(**batch))
    sites = list(found)
    gradients = torch.autograd.grad(loss, [found[site] for site in sites], allow_unused=True)
    return {
        site: (found[site].double().std(correction=0).item(), None if g is None else g.double().norm().item())
        for site, g in zip(sites, gradients, strict=True)
    }
