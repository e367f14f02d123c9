"""A small net, its batches, a loop that trains it, and what a watch has recorded of it."""

from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions with a shortcut, activations as a module and as a function, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.deep = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.deep(x))
        return torch.tanh(self.head(x.mean((2, 3))))


def made(kind: Callable[[], nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def batch(step: int, n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(n, 3, 5, 5, generator=generator), torch.randint(3, (n,), generator=generator)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def values(frame: pd.DataFrame, step: int, layer: str) -> dict[str, float]:
    rows = frame[(frame["step"] == step) & (frame["layer"] == layer)]
    assert not rows["statistic"].duplicated().any()
    return rows.set_index("statistic")["value"].to_dict()


def hooks(model: nn.Module) -> int:
    on_modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return on_modules + sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())
