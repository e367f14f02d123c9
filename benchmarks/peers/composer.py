"""Composer's two monitors, driven as its trainer does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.paired import Subject, Tool, Way
from benchmarks.peers.step import Step

WHY = "asks for torch below 2.7.1"


class Trainer:
    """What Composer's trainer keeps for its callbacks: a state, and a logger whose metrics stay here."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        from composer.core import State
        from composer.devices import DeviceCPU
        from composer.loggers import Logger, LoggerDestination

        class Kept(LoggerDestination):
            """Keeps the last metrics."""

            def __init__(self) -> None:
                self.metrics: dict[str, Any] = {}

            def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
                self.metrics.update(metrics)

        options = {"rank_zero_seed": 0, "run_name": "benchmark", "device": DeviceCPU()}
        self.state = State(model=model, optimizers=optimizer, **options)
        self.kept = Kept()
        self.logger = Logger(self.state, destinations=[self.kept])

    def advance(self) -> None:
        """Count a batch."""
        self.state.timestamp = self.state.timestamp.to_next_batch()


@contextmanager
def activation_monitor(subject: Subject) -> Iterator[Way]:
    """Norm, mean, kurtosis and maximum of each module's inputs and outputs, image by image; no std."""
    from composer.callbacks import ActivationMonitor

    trainer = Trainer(subject.model)
    monitor = ActivationMonitor(interval="1ba")

    def run() -> None:
        trainer.advance()
        monitor.before_forward(trainer.state, trainer.logger)
        subject.model(subject.inputs)
        monitor.after_forward(trainer.state, trainer.logger)

    yield Way(run, but="other statistics, image by image; no std")


@contextmanager
def optimizer_monitor(subject: Subject) -> Iterator[Way]:
    """The norm of the gradient of every parameter, read in one go after the step."""
    from composer.callbacks import OptimizerMonitor

    step = Step(subject)
    trainer = Trainer(subject.model, step.optimizer)
    monitor = OptimizerMonitor(log_optimizer_metrics=False, batch_log_interval=1)

    def run() -> None:
        step.run()
        trainer.advance()
        monitor.batch_end(trainer.state, trainer.logger)

    def values() -> Tensor:
        names = [name for name, _ in subject.model.named_parameters()]
        return torch.tensor([trainer.kept.metrics[f"l2_norm/grad/{name}"] for name in names])

    yield Way(run, values)


ACTIVATIONS = Tool("Composer ActivationMonitor", activation_monitor, "mosaicml", WHY)
OPTIMIZER = Tool("Composer OptimizerMonitor", optimizer_monitor, "mosaicml", WHY)
