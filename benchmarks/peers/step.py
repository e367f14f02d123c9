"""A training step of a subject: what all tools that measure gradients are held against."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.paired import Subject


class Step:
    """The forward pass, the backward pass and a step of SGD, so small that the weights stay what they are."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.optimizer = torch.optim.SGD(subject.model.parameters(), lr=1e-12)

    def run(
        self,
        backward: Callable[[Tensor], None] = Tensor.backward,
        before_optimizer: Callable[[], object] = lambda: None,
    ) -> None:
        """One step."""
        self.optimizer.zero_grad()
        backward(self.loss())
        before_optimizer()
        self.optimizer.step()

    def loss(self) -> Tensor:
        """The mean cross entropy of the batch."""
        return F.cross_entropy(self.subject.model(self.subject.inputs), self.subject.labels)
