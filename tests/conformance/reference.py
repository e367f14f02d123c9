"""A model as a function of its parameters, written out by hand, which notes its responses: no module, no hook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Site = tuple[str, int]
"""A layer, and the number of its call in one pass."""


@dataclass
class Note:
    """A response.

    Attributes:
        site: Of which layer.
        value: With its graph.
        demanded: Whether a probe has to have it; else it may.
        block: Whether it is the output of a block.
        grad: What has come back to it so far.
    """

    site: Site
    value: Tensor
    demanded: bool = True
    block: bool = False
    grad: Tensor | None = None


class Reference:
    """What a situation's hand-written forward pass is given.

    Args:
        forward: Called with this and the inputs.
        parts: Forward passes of parts of the model.
        model: Whose parameters and buffers are copied.
    """

    def __init__(self, forward: Callable[..., Any], parts: Mapping[str, Callable[..., Any]], model: nn.Module) -> None:
        self._forward, self._parts = forward, parts
        self.weights: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            self.weights[bare(name)] = parameter.detach().clone().requires_grad_(parameter.requires_grad)
        self.buffers = {bare(name): buffer.detach().clone() for name, buffer in model.named_buffers()}
        self.training = model.training
        self.notes: list[Note] = []
        self.input_gradients: list[Tensor | None] = []
        self.frozen_statistics = False
        self._calls: Counter[str] = Counter()
        self._noting = False
        self._depth = 0
        self._drawn: list[Any] = []
        self._replayed: Iterator[Any] | None = None
        self._example: int | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[name] if name in self.weights else self.buffers[name]

    def get_parameter(self, name: str) -> Tensor:
        return self.weights[name]

    def parameters(self) -> Iterator[Tensor]:
        return iter(self.weights.values())

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.weights.items())

    def __call__(self, *inputs: Any) -> Any:
        return self._run(self._forward, *inputs)

    def part(self, name: str, *inputs: Any) -> Any:
        """Call a part of the model."""
        return self._run(self._parts[name], *inputs)

    def _run(self, forward: Callable[..., Any], *inputs: Any) -> Any:
        outermost = self._depth == 0
        if outermost:
            self._calls.clear()
        first = len(self._drawn)
        self._depth += 1
        try:
            output = forward(self, *inputs)
        finally:
            self._depth -= 1
        if outermost and self._noting and forward is self._forward:
            self.input_gradients.append(self._input_gradient(first, *inputs))
        return output

    def _input_gradient(self, first: int, *inputs: Any) -> Tensor | None:
        if not (isinstance(inputs[0], Tensor) and inputs[0].is_floating_point()):
            return None
        with torch.inference_mode(False), torch.enable_grad(), self.silent(self._drawn[first:]):
            x = inputs[0].detach().clone().requires_grad_()
            self.frozen_statistics = True
            output = self._forward(self, x, *inputs[1:])
            self.frozen_statistics = False
            if not isinstance(output, Tensor) or not output.requires_grad:
                return None
            return torch.autograd.grad(output.sum(), x, allow_unused=True)[0]

    @contextmanager
    def noting(self) -> Iterator[None]:
        """A context in which responses are kept."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False

    @contextmanager
    def silent(self, drawn: list[Any], example: int | None = None) -> Iterator[None]:
        """A context in which nothing is kept, and random numbers are those of an earlier pass.

        Args:
            drawn: What was drawn then.
            example: Which example alone is run now.
        """
        before = self._noting, self._replayed, self._example, self._calls
        self._noting, self._replayed, self._example, self._calls = False, iter(drawn), example, Counter()
        try:
            yield
        finally:
            self._noting, self._replayed, self._example, self._calls = before

    @contextmanager
    def with_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """A context in which forward passes use other weights."""
        before, self.weights = self.weights, dict(weights)
        try:
            yield
        finally:
            self.weights = before

    def draw(self, sample: Callable[[], Any]) -> Any:
        """A random number, or a tensor of them for each example."""
        if self._replayed is None:
            self._drawn.append(sample())
            return self._drawn[-1]
        value = next(self._replayed)
        return (
            value[self._example : self._example + 1]
            if isinstance(value, Tensor) and self._example is not None
            else value
        )

    def take_drawn(self) -> list[Any]:
        """What was drawn since this was last asked for."""
        drawn, self._drawn = self._drawn, []
        return drawn

    # What a forward pass is written with.

    def note(self, layer: str, value: Tensor, *, demanded: bool = True, block: bool = False) -> Tensor:
        """Keep a response, and hand it on."""
        key = f"{layer} block" if block else layer
        self._calls[key] += 1
        if self._noting:
            self.notes.append(Note((layer, self._calls[key]), value, demanded, block))
        return value

    def of(self, layer: str) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias of a layer."""
        return self.weights[f"{layer}.weight"], self.weights.get(f"{layer}.bias")

    def linear(self, layer: str, x: Tensor) -> Tensor:
        return self.note(layer, F.linear(x, *self.of(layer)))

    def embedding(self, layer: str, x: Tensor) -> Tensor:
        return self.note(layer, F.embedding(x, self[f"{layer}.weight"]))

    def layer_norm(self, layer: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self.of(layer))

    def batch_norm(self, layer: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        """By running statistics, or those of the batch, which may count as constants in the derivative."""
        weight, bias = self.of(layer)
        shape = (1, -1, *[1] * (x.ndim - 2))
        if self.training:
            dims = [0, *range(2, x.ndim)]
            mean, variance = x.mean(dims), x.var(dims, correction=0)
            if self.frozen_statistics:
                mean, variance = mean.detach(), variance.detach()
        else:
            mean, variance = self[f"{layer}.running_mean"], self[f"{layer}.running_var"]
        x = (x - mean.view(shape)) / (variance.view(shape) + eps).sqrt()
        return x if bias is None else x * weight.view(shape) + bias.view(shape)


def bare(name: str) -> str:
    """A parameter's name without what wrappers put before it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")
