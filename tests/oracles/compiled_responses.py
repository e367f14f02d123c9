"""Networks that are compiled, and what plain hooks measure on them as they are."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import gradlab as gl

Answer = dict[tuple[str, int], float]


def brute_force(model: nn.Module, batches: list[Tensor], read: dict[str, str]) -> Answer:
    """Std of all values that modules return, in float64.

    Args:
        model: A model that is not compiled, of which a copy runs.
        batches: Its inputs.
        read: Where the response of each layer is read: the name of a module.
    """
    model = copy.deepcopy(model)
    seen: dict[tuple[str, int], list[Tensor]] = {}
    for x in batches:
        calls: dict[str, int] = {}

        def note(layer: str, output: Tensor, calls: dict[str, int] = calls) -> None:
            calls[layer] = calls.get(layer, 0) + 1
            seen.setdefault((layer, calls[layer]), []).append(output.detach().double().flatten())

        handles: list[RemovableHandle] = []
        for layer, name in read.items():
            module = model.get_submodule(name)
            handles.append(module.register_forward_hook(lambda m, a, output, layer=layer: note(layer, output)))
        model(x)
        for handle in handles:
            handle.remove()
    return {site: torch.cat(values).std(correction=0).item() for site, values in seen.items()}


def answer(probe: gl.ResponseStd) -> Answer:
    frame = probe.result().to_frame()
    return dict(zip(zip(frame["layer"], frame["call"], strict=True), frame["std"], strict=True))


def counted_passes(probe: gl.ResponseStd) -> tuple[int, int]:
    """How many passes ran in compiled code, and how many in all, by what the result says."""
    (note,) = [note for note in probe.result().notes if "compiled code" in note]
    compiled, _, passes, *_ = note.split()
    return int(compiled), int(passes)


def compiled_passes(probe: gl.ResponseStd) -> int:
    return counted_passes(probe)[0]


def run(model: nn.Module, batches: list[Tensor], **options: Any) -> gl.ResponseStd:
    with torch.no_grad(), gl.ResponseStd(model, **options) as probe:
        for x in batches:
            model(x)
    return probe


class Normalized(nn.Module):
    """A convolution that is normalized, one that is not, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.c, self.act = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.act(self.norm(self.a(x))))
        x = self.c(self.act(self.c(self.act(x))))
        return self.head(x.mean((2, 3)))


READ = {"a": "norm", "b": "b", "c": "c", "head": "head"}


def images(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 2, 6, 6, generator=generator) for n in sizes]


class Longer(nn.Module):
    """Large batches take another way."""

    def __init__(self, other: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.other = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), other

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x))) if x.shape[0] < 6 else self.other(self, x)
