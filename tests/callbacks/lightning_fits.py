"""Fits with Lightning, which is loaded when a test asks for it and not when tests are collected."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

lightning = pytest.importorskip("lightning.pytorch")


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.seen: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if index == getattr(self, "fails_at", None):
            raise ZeroDivisionError
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.seen.append(self.network[0].weight.grad.double().norm().item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Module, *callbacks: object, **options: object) -> None:
    generator = torch.Generator().manual_seed(1)
    data = torch.utils.data.TensorDataset(
        torch.randn(20, 4, generator=generator), torch.randint(3, (20,), generator=generator)
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks],
        **options,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))


class TwoOptimizers(Module):
    """Steps the first layer's optimizer twice as often as the second's."""

    automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        for optimizer in self.optimizers()[: 2 - index % 2]:
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, index))
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.network[i].parameters(), lr=0.1) for i in (0, 2)]
