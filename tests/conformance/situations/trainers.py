"""Other libraries' training loops, which attach the probe themselves and divide accumulated losses by their number."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.reference import Reference
from conformance.runs import seed_all
from conformance.situation import INPUTS, PROBE_BACKWARD, RESPONSES, Net, Situation, vectors
from conformance.situations.networks import mlp_by_hand

KIND = "The step"

MICRO_BATCHES = 4


def by_hand(run: Net, x: Tensor, y: Tensor) -> None:
    for a, b in zip(x.chunk(MICRO_BATCHES), y.chunk(MICRO_BATCHES), strict=True):
        run.backward(run.objective(run.net, a, b) / MICRO_BATCHES)
    run.step()


@contextmanager
def quiet() -> Iterator[None]:
    """What these libraries log is not for here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def lightning(run: Net, x: Tensor, y: Tensor) -> None:
    """Lightning's `accumulate_grad_batches`, with a probe of the network inside the LightningModule."""
    if run.by_hand:
        by_hand(run, x, y)
        return
    from lightning import pytorch as pl

    from gradlab.callbacks.lightning import ProbeCallback

    seed_all()  # What an import draws is not the loop's.

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = run.net

        def training_step(self, batch: Any, number: int) -> Tensor:
            return run.objective(self.net, *batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.0)

    class Looking(pl.Callback):
        def on_before_optimizer_step(self, *args: Any) -> None:
            run.snapshot()

    callbacks: list[pl.Callback] = [Looking()]
    if run.make is not None:
        callbacks.append(ProbeCallback(lambda module: run.attached(run.make(module.net))))
    data = torch.utils.data.TensorDataset(x, y)
    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "barebones"), False
    )
    with quiet():
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            accumulate_grad_batches=MICRO_BATCHES,
            callbacks=callbacks,
            default_root_dir=tempfile.gettempdir(),
            **off,
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=len(x) // MICRO_BATCHES))


class WithLoss(nn.Module):
    """A network that gives its loss, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, points: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(points)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def with_loss_by_hand(net: Reference, points: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
    logits = net.linear("net.2", torch.tanh(net.linear("net.0", points)))
    return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def its_loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return net(x, y)["loss"]


def transformers(run: Net, x: Tensor, y: Tensor) -> None:
    """Hugging Face's `gradient_accumulation_steps`."""
    if run.by_hand:
        by_hand(run, x, y)
        return
    import transformers as hf

    from gradlab.callbacks.transformers import ProbeCallback

    seed_all()  # What an import draws is not the loop's.

    class Looking(hf.TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            run.snapshot()

    class InOrder(hf.Trainer):
        def get_train_dataloader(self) -> torch.utils.data.DataLoader:
            return self.accelerator.prepare(torch.utils.data.DataLoader(data, batch_size=len(x) // MICRO_BATCHES))

    data = [{"points": a, "labels": b} for a, b in zip(x, y, strict=True)]
    callbacks: list[hf.TrainerCallback] = [Looking()]
    if run.make is not None:
        callbacks.append(ProbeCallback(lambda module: run.attached(run.make(module))))
    with tempfile.TemporaryDirectory() as folder, quiet():
        arguments = hf.TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            gradient_accumulation_steps=MICRO_BATCHES,
            num_train_epochs=1,
            optim="sgd",
            max_grad_norm=0.0,
        )
        trainer = InOrder(run.net, arguments, train_dataset=data, callbacks=callbacks)
        trainer.remove_callback(hf.PrinterCallback)
        trainer.train()


NO_LOOP = dict.fromkeys((RESPONSES, INPUTS), "the callback is for probes of gradients")
"""Probes that such a callback does not take."""

OWN_BACKWARD = {**NO_LOOP, PROBE_BACKWARD: "the library calls loss.backward itself"}

SITUATIONS = [
    Situation(
        "Lightning's accumulate_grad_batches",
        KIND,
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
        mlp_by_hand,
        data=lambda: vectors(8),
        loop=lightning,
        blank=OWN_BACKWARD,
        managed=True,
    ),
    Situation(
        "Hugging Face's gradient_accumulation_steps",
        KIND,
        WithLoss,
        with_loss_by_hand,
        data=lambda: vectors(8),
        objective=its_loss,
        loop=transformers,
        blank=OWN_BACKWARD,
        managed=True,
    ),
]
