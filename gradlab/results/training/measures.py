"""What is shown of a training: the error of images, the loss of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TOKENS = ("tokens", "text")
"""The first words of the names of data sets of tokens."""


@dataclass(frozen=True)
class Measure:
    """What is drawn and summed up of a training.

    Attributes:
        name: The second part of its columns: `train_NAME` and `test_NAME`.
        label: The label of the axis.
        factor: The factor from the column to the axis.
    """

    name: str
    label: str
    factor: float

    @property
    def columns(self) -> tuple[str, str]:
        """The columns of training and test."""
        return f"train_{self.name}", f"test_{self.name}"


ERROR = Measure("error", "error (%)", 100.0)
LOSS = Measure("loss", "loss (nats)", 1.0)


def of_tokens(facts: Mapping[str, Any]) -> bool:
    """Whether a run, by the facts on it, was trained on sequences of tokens."""
    return str(facts.get("data", "")).partition(":")[0] in TOKENS


def measure_of(runs: Iterable[Mapping[str, Any]]) -> Measure:
    """The loss if all runs were trained on tokens, otherwise the error, which images share."""
    known = [of_tokens(facts) for facts in runs]
    return LOSS if known and all(known) else ERROR
