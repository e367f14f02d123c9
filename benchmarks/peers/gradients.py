"""The norm of the gradient of every parameter, in a training step, by other tools."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.paired import Subject, Tool, Way
from benchmarks.peers.composer import OPTIMIZER
from benchmarks.peers.step import Step


@contextmanager
def loop(subject: Subject) -> Iterator[Way]:
    """`p.grad.norm().item()` for every parameter after the backward pass."""
    step, norms = Step(subject), [0.0]

    def read() -> None:
        norms[:] = [
            parameter.grad.norm().item() for parameter in subject.model.parameters() if parameter.grad is not None
        ]

    yield Way(lambda: step.run(before_optimizer=read), lambda: torch.tensor(norms))


@contextmanager
def cockpit(subject: Subject) -> Iterator[Way]:
    """Cockpit with the one quantity `GradNorm`."""
    from cockpit import Cockpit
    from cockpit.quantities import GradNorm

    step, tracker = Step(subject), Cockpit(subject.model.parameters(), [GradNorm(lambda global_step: True)])
    counter = iter(range(10**9))

    def backward(loss: Tensor) -> None:
        with tracker(
            next(counter), info={"batch_size": len(subject.inputs), "loss": loss, "optimizer": step.optimizer}
        ):
            loss.backward(create_graph=False)

    def values() -> Tensor:
        output = tracker.get_output()
        return torch.tensor(output[max(output)]["GradNorm"])

    yield Way(lambda: step.run(backward), values)


@contextmanager
def wandb_watch(subject: Subject) -> Iterator[Way]:
    """`wandb.watch` of every step in an offline run: histograms, which its own process writes."""
    import wandb

    step = Step(subject)
    with tempfile.TemporaryDirectory() as folder:
        settings = wandb.Settings(silent=True, console="off")
        run = wandb.init(project="benchmark", mode="offline", dir=folder, settings=settings)
        try:
            wandb.watch(subject.model, log="gradients", log_freq=1)

            def logged() -> None:
                step.run()
                run.log({"step": 1})

            yield Way(logged, but="histograms, no norms")
            wandb.unwatch(subject.model)
        finally:
            run.finish()


GRADIENTS = (
    Tool("p.grad.norm().item()", loop),
    Tool("Cockpit, GradNorm", cockpit, "cockpit-for-pytorch"),
    Tool("wandb.watch", wandb_watch, "wandb"),
    OPTIMIZER,
)
