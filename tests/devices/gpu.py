"""What the tests on a GPU share: small networks, plain hooks that copy what passes, and loops in float64 on the CPU.

The tests run on the device of `GRADLAB_TEST_DEVICE`, `cuda` unless it is set. With `cpu` the numbers are checked
anywhere, without what only CUDA has.
"""

from __future__ import annotations

import copy
import math
import os
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl

DEVICE = os.environ.get("GRADLAB_TEST_DEVICE", "cuda")
ON_CUDA = DEVICE.startswith("cuda")
MARKS = [
    pytest.mark.cuda,
    pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("exact"),
]
"""The marks of every test on a GPU."""

TRAINED = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions of autocast."""


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Residual(nn.Module):
    """A residual network of images 3 × 12 × 12 with 10 classes."""

    def __init__(self, blocks: int = 2, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Case:
    """A network, its batches, and where plain hooks find the response of each layer.

    Args:
        name: `conv` or `gpt`.
        device: Where it lies.
        training: Whether it is in training mode.
        batches: How many batches there are.
    """

    def __init__(self, name: str, device: str = DEVICE, *, training: bool = True, batches: int = 2) -> None:
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        if name == "conv":
            model: nn.Module = Residual()
            self.batches = [torch.randn(6, 3, 12, 12, generator=generator) for _ in range(batches)]
            self.labels = [torch.randint(10, (6,), generator=generator) for _ in range(batches)]
        else:
            model = gl.build("gpt2-width=32-heads=2@init")
            self.batches = [torch.randint(256, (4, 16), generator=generator) for _ in range(batches)]
            self.labels = [torch.randint(256, (4, 16), generator=generator) for _ in range(batches)]
        self.name, self.device = name, device
        self.model = model.train(training).to(device)
        self.batches, self.labels = ([t.to(device) for t in every] for every in (self.batches, self.labels))

    @property
    def read(self) -> dict[str, str]:
        """The module that returns the response of each layer."""
        names = [name for name, _ in self.model.named_modules()]
        if self.name == "conv":
            found = {n: n.replace("conv", "norm").replace("stem", "norm") for n in names if "conv" in n or n == "stem"}
            return {**found, "head": "head"}
        kinds = nn.Linear | nn.Embedding
        return {name: name for name in names if isinstance(self.model.get_submodule(name), kinds)}

    def double(self) -> Case:
        """The same in float64 on the CPU."""
        case = copy.copy(self)
        case.model = copy.deepcopy(self.model).cpu().double()
        case.batches = [x.cpu().double() if x.is_floating_point() else x.cpu() for x in self.batches]
        case.labels, case.device = [y.cpu() for y in self.labels], "cpu"
        return case

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, -2), labels.flatten())

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        dtype = TRAINED[precision]
        return nullcontext() if dtype is None else torch.autocast(torch.device(self.device).type, dtype)


class Copies:
    """Copies in float64 of what modules return and of the gradients with respect to it, by plain hooks.

    Args:
        model: The model that runs.
        read: The names of modules, by what their copies are to be called.
    """

    def __init__(self, model: nn.Module, read: dict[str, str]) -> None:
        self.values: dict[str, list[Tensor]] = defaultdict(list)
        self.gradients: dict[str, list[Tensor]] = defaultdict(list)
        self._model, self._read = model, read

    def __enter__(self) -> Copies:
        self._handles = [
            self._model.get_submodule(name).register_forward_hook(self._hook(layer))
            for layer, name in self._read.items()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            self.values[layer].append(output.detach().double().cpu())
            if output.requires_grad:
                output.register_hook(lambda g: self.gradients[layer].append(g.detach().double().cpu()))

        return hook

    def stds(self) -> dict[str, float]:
        return {
            layer: torch.cat([v.flatten() for v in seen]).std(correction=0).item()
            for layer, seen in self.values.items()
        }

    def norms(self, divisor: float = 1.0) -> dict[str, float]:
        """Norms of the gradients of all passes together."""
        return {
            layer: math.sqrt(sum(g.square().sum().item() for g in seen)) / divisor
            for layer, seen in self.gradients.items()
        }


def weight_norms(model: nn.Module, divisor: float = 1.0) -> dict[str, float]:
    """Norms of the gradients of all weights of two or more dimensions, by the name of their layer."""
    return {
        name.removesuffix(".weight"): parameter.grad.double().cpu().norm().item() / divisor
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.grad is not None and parameter.ndim > 1
    }


def example_norms(case: Case, batch: int = 0) -> dict[str, Tensor]:
    """Norms of single examples' gradients by a loop in float64 on the CPU; of all parameters as `total`."""
    there = case.double()
    there.model.eval()
    found: dict[str, list[float]] = defaultdict(list)
    for x, y in zip(there.batches[batch].split(1), there.labels[batch].split(1), strict=True):
        there.model.zero_grad()
        there.loss(there.model(x), y).backward()
        for layer, norm in weight_norms(there.model).items():
            found[layer].append(norm)
        every = [p.grad.square().sum() for p in there.model.parameters() if p.grad is not None]
        found["total"].append(torch.stack(every).sum().sqrt().item())
    return {layer: torch.tensor(norms, dtype=torch.float64) for layer, norms in found.items()}


def by_layer(frame: Any, column: str, **where: Any) -> dict[str, float]:
    """A column of a table by layer, of the rows that have some values."""
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return dict(zip(frame["layer"], frame[column].astype(float), strict=True))
