"""What a situation is: a small model, its data, a training step, and the same computation written out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from conformance.runs import Run

PROBES = (
    "ResponseStd",
    "ParameterGradients",
    "ResponseGradients",
    "ExampleGradients, probe.backward",
    "ExampleGradients, loss.backward",
    "InputGradients",
)
RESPONSES, PARAMETERS, RESPONSE_GRADIENTS, PROBE_BACKWARD, LOSS_BACKWARD, INPUTS = PROBES
EXAMPLES = (PROBE_BACKWARD, LOSS_BACKWARD)

Net = Any
"""A model, or its reference: both are called, and asked for their parameters, alike."""

Batch = tuple[Tensor, Tensor]
"""Inputs and targets of one step; their first dimension is the examples."""

Part = str | tuple[str, slice]
"""A parameter by its name, or some of its rows."""


def classification(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """The loss of most situations; of one example alone it is that example's own."""
    return F.cross_entropy(net(x), y)


def one_step(run: Run, x: Tensor, y: Tensor) -> None:
    """The loop of most situations."""
    run.backward(run.objective(run.net, x, y))
    run.step()


def vectors(n: int = 5, width: int = 4) -> list[Batch]:
    """One step's batch of n vectors, of three classes."""
    return [(torch.randn(n, width, dtype=torch.float64), torch.arange(n) % 3)]


def sequences(n: int = 5, length: int = 3, width: int = 4) -> list[Batch]:
    """One step's batch of n sequences, of three classes."""
    return [(torch.randn(n, length, width, dtype=torch.float64), torch.arange(n) % 3)]


def images(n: int = 4, channels: int = 2, size: int = 5) -> list[Batch]:
    """One step's batch of n images, of three classes."""
    return [(torch.randn(n, channels, size, size, dtype=torch.float64), torch.arange(n) % 3)]


def tokens(n: int = 5, length: int = 4, vocabulary: int = 7) -> list[Batch]:
    """One step's batch of n texts, of three classes."""
    return [(torch.randint(0, vocabulary, (n, length)), torch.arange(n) % 3)]


@dataclass(frozen=True, eq=False)
class Situation:
    """A model and a loop that a probe may meet.

    Attributes:
        name: What is special about it, as the page in docs has it.
        kind: Under which heading it stands there.
        model: Makes the model; called under a seed.
        reference: The forward pass by hand: from the parameters and the inputs, and it notes each response.
        data: Makes the batches, one for each call of the loop.
        objective: The loss that the loop minimizes, of a batch or of a single example.
        loop: One optimizer step, or several: calls `run.net`, `run.backward` and `run.step`.
        rows: What each row of a gradient probe is made of, where that does not follow from the parameters' names.
        alone: The own loss of an example, for each forward pass of which it is one; None stands for the objective. Two
            passes of a step are two micro-batches, and the loop divides the mean loss of each by two.
        parts: The forward passes of parts of the model that the loop calls, by hand.
        refused: The probes that refuse it, with a word that their sentence has to have.
        blank: The probes that cannot be asked there, with the reason.
        reduction: How the loss joins those of examples.
        options: What a probe is given besides the model.
        scaler: Whether the loop scales its loss.
        dtype: Of parameters and inputs.
        tolerance: Largest relative deviation.
        example_tolerance: That of single examples; where precision is low, they are reckoned otherwise than alone.
        around: What else is in force while the loop runs.
        managed: Whether the loop attaches the probe itself.
    """

    name: str
    kind: str
    model: Callable[[], nn.Module]
    reference: Callable[..., Any]
    data: Callable[[], list[Batch]] = vectors
    objective: Callable[[Net, Tensor, Tensor], Tensor] = classification
    loop: Callable[[Run, Tensor, Tensor], None] = one_step
    rows: Mapping[str, Sequence[Part]] | None = None
    alone: Sequence[Callable[[Net, Tensor, Tensor], Tensor]] | None = None
    parts: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    blank: Mapping[str, str] = field(default_factory=dict)
    reduction: str = "mean"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scaler: bool = False
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-6
    example_tolerance: float | None = None
    around: Callable[[nn.Module], AbstractContextManager[Any]] = lambda model: nullcontext()
    managed: bool = False


def refusing(word: str, *probes: str) -> dict[str, str]:
    """Both ways of measuring single examples refuse, and so do other probes; their sentence has the word."""
    return dict.fromkeys((*EXAMPLES, *probes), word)


TOKENS = {INPUTS: "floating-point"}
"""What `InputGradients` says of inputs that are no numbers."""
