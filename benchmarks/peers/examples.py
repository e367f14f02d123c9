"""Norms of the gradients of single examples, in a training step, by other tools.

Values are the mean over the examples of the norm for each weight, as gradlab's column `example_norm`; Cockpit has the
number of its norm test, which gradlab's values have after these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.paired import Subject, Tool, Way
from benchmarks.peers.step import Step


def by_weight(values: Tensor) -> Tensor:
    """gradlab's norms, without the number of the norm test."""
    return values[:-1]


def norm_test(values: Tensor) -> Tensor:
    """The number of the norm test in gradlab's values."""
    return values[-1:]


@contextmanager
def vmap_of_grad(subject: Subject) -> Iterator[Way]:
    """`torch.func`: the gradients of every example, which replace the backward pass of the batch."""
    model, found = subject.model, [torch.empty(0)]
    weights = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (image[None],)), label[None])

    def run() -> None:
        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(weights, subject.inputs, subject.labels)
        found[:] = [gradient.flatten(1).norm(dim=1) for gradient in gradients.values()]

    yield Way(run, lambda: torch.stack(found).mean(1), by_weight, "no gradient of the batch, no step")


@contextmanager
def opacus(subject: Subject) -> Iterator[Way]:
    """Opacus's `GradSampleModule`, with gradients of the weights only; it sees what is in train mode."""
    from opacus import GradSampleModule

    for parameter in subject.model.parameters():
        parameter.requires_grad_(parameter.ndim > 1)
    for module in subject.model.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    weights, found = subject.weights, [torch.empty(0)]
    wrapped = GradSampleModule(subject.model, loss_reduction="mean", strict=False)
    step = Step(Subject(wrapped, subject.inputs, subject.labels))

    def read() -> None:
        found[:] = [weight.grad_sample.flatten(1).norm(dim=1) for weight in weights]
        for weight in weights:
            weight.grad_sample = None

    yield Way(lambda: step.run(before_optimizer=read), lambda: torch.stack(found).mean(1), by_weight)


@contextmanager
def backpack(subject: Subject) -> Iterator[Way]:
    """BackPACK's `BatchL2Grad`, of all parameters."""
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    model, mean_loss = extend(subject.model), extend(nn.CrossEntropyLoss())
    step, examples = Step(subject), len(subject.inputs)
    squares = [torch.empty(0)]

    def run() -> None:
        step.optimizer.zero_grad()
        with backpack(BatchL2Grad()):
            mean_loss(model(subject.inputs), subject.labels).backward()
        squares[:] = [weight.batch_l2 for weight in subject.weights]
        step.optimizer.step()

    yield Way(run, lambda: torch.stack(squares).sqrt().mean(1) * examples, by_weight)


@contextmanager
def cockpit(subject: Subject) -> Iterator[Way]:
    """Cockpit's `NormTest` of the weights, which it computes from the norms of single examples."""
    from backpack import extend
    from cockpit import Cockpit
    from cockpit.quantities import NormTest

    model, mean_loss = extend(subject.model), extend(nn.CrossEntropyLoss())
    step, tracker = Step(subject), Cockpit(subject.weights, [NormTest(lambda global_step: True)])
    counter = iter(range(10**9))

    def run() -> None:
        step.optimizer.zero_grad()
        loss = mean_loss(model(subject.inputs), subject.labels)
        info = {"batch_size": len(subject.inputs), "loss": loss, "optimizer": step.optimizer}
        with tracker(next(counter), info=info):
            loss.backward(create_graph=False)
        step.optimizer.step()

    def values() -> Tensor:
        output = tracker.get_output()
        return torch.tensor([output[max(output)]["NormTest"]])

    yield Way(run, values, norm_test, "one number, √(tr Σ / N) / |G|")


EXAMPLES = (
    Tool("vmap(grad)", vmap_of_grad),
    Tool("Opacus", opacus, "opacus"),
    Tool("BackPACK, BatchL2Grad", backpack, "backpack-for-pytorch"),
    Tool("Cockpit, NormTest", cockpit, "cockpit-for-pytorch"),
)
