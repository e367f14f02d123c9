"""Networks for the tests of gl.ResponseStd, and their responses by brute force."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab as gl


class InPlace(nn.Module):
    """In-place ReLU and `out +=`, which overwrite what a hook keeps; one convolution without normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        out = self.norm(self.conv(x))
        out += x
        return self.act(out)


class Repeated(nn.Module):
    """One module called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.relu(self.conv(x)) * 2
        return x


class Checkpointed(nn.Module):
    """A block whose activations are recomputed in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.block = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


def images(n: int = 6, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def batches() -> Iterator[Tensor]:
    yield from (images(4, seed=1), images(4, seed=2), images(2, seed=3))


def randomized(model: nn.Module) -> nn.Module:
    """Normalization far from the identity, so that a response before it is not taken for one after it."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
    return model.eval()


def brute_force(model: nn.Module, pairs: dict[str, str]) -> dict[str, float]:
    """float64 std of copies, taken at once, of the outputs of the named modules over all batches."""
    kept: dict[str, list[np.ndarray]] = {layer: [] for layer in pairs}
    handles = [
        model.get_submodule(where).register_forward_hook(
            lambda m, args, out, layer=layer: kept[layer].append(out.detach().double().clone().numpy().ravel())
        )
        for layer, where in pairs.items()
    ]
    with torch.no_grad():
        for batch in batches():
            model(batch)
    for handle in handles:
        handle.remove()
    return {layer: float(np.concatenate(values).std()) for layer, values in kept.items()}


def probed(model: nn.Module, layers: object = None, **options: object) -> dict[str, float]:
    with torch.no_grad(), gl.ResponseStd(model, layers, **options) as probe:
        for batch in batches():
            model(batch)
    frame = probe.result().to_frame()
    return dict(zip(frame["layer"], frame["std"], strict=True))


def std(x: Tensor) -> float:
    return x.detach().abs().pow(2).mean().sub(x.detach().mean().abs() ** 2).sqrt().item()


def stds(model: nn.Module, *inputs: Any, layers: Any = None) -> dict[tuple[str, int], float]:
    with torch.no_grad(), gl.ResponseStd(model, layers) as probe:
        model(*inputs)
    return {(row.layer, row.call): row.std for row in probe.result().frame.itertuples()}


def norms(model: nn.Module, run: Callable[[], Tensor], layers: Any = None) -> dict[tuple[str, int], float]:
    with gl.ResponseGradients(model, layers) as probe:
        run().backward()
    rows = probe.result().layers().itertuples()
    return {(row.layer, row.call): row.response_grad_norm for row in rows if not isinstance(row.absent, str)}


def close(found: dict[Any, float], expected: dict[Any, float]) -> None:
    assert found == pytest.approx(expected, rel=1e-9)
