"""Sequences of tokens on the device, for training and testing: each token is to be followed by the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.data.datasets import load_dataset
from gradlab.data.tokens import RandomTokens
from gradlab.errors import UsageError
from gradlab.training.augmentation import EpochPlan

TRAINING_SEQUENCES, TEST_SEQUENCES = 4096, 256
"""Random sequences to train on, and further ones to test on."""

TESTED_AT_A_TIME = 32
"""Sequences of a batch without gradients, whose logits are as many as tokens and vocabulary together."""


@dataclass
class LabelledTokens:
    """Sequences and the tokens that follow on one device.

    Attributes:
        tokens: The sequences, int64 of shape (N, T).
        labels: The token that follows each, int64 of shape (N, T).
    """

    tokens: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sequence."""
        return tuple(self.tokens.shape[1:])

    def to(self, device: torch.device) -> None:
        """Move all sequences to a device."""
        self.tokens, self.labels = self.tokens.to(device), self.labels.to(device)

    def training_batch(self, plan: EpochPlan, place: slice, padding: int) -> tuple[Tensor, Tensor]:
        """Return the sequences and labels of one step; padding and mirroring are for images alone.

        Args:
            plan: The plan of the epoch, on the same device.
            place: The range of the batch within the plan.
            padding: Not used.
        """
        chosen = plan.order[place]
        return self.tokens[chosen], self.labels[chosen]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all sequences in order."""
        size = min(size, TESTED_AT_A_TIME)
        for start in range(0, len(self), size):
            yield self.tokens[start : start + size], self.labels[start : start + size]


def load_sequences(
    data: str, length: int, vocabulary: int, validation: int = 0
) -> tuple[LabelledTokens, LabelledTokens]:
    """Load training and test sequences by name.

    Of random tokens both are drawn from one chain; of a text the last tenth is for testing.

    Args:
        data: The data set: `tokens`, `tokens:markov` or `text:PATH`.
        length: The number of tokens in a sequence.
        vocabulary: The number of tokens that the network takes.
        validation: The number of training sequences, taken from the end, that are held out and replace the test
            sequences.

    Raises:
        UsageError: If the data set is of another kind, or too many sequences are held out.
        GradlabError: If the data does not exist, cannot be read, or is too short.
    """
    if data.partition(":")[0] not in ("tokens", "text"):
        raise UsageError(f"{data} holds images, and the network takes tokens: give tokens:markov or text:PATH (--data)")
    dataset = load_dataset(data, shape=(length,), vocabulary=vocabulary)
    if isinstance(dataset, RandomTokens):
        dataset.count, tested = TRAINING_SEQUENCES + TEST_SEQUENCES, TEST_SEQUENCES
    else:
        tested = max(1, len(dataset) // 10)
    trained = len(dataset) - tested
    if trained < 1:
        raise UsageError(f"{data} has {len(dataset)} sequences of {length} tokens, too few to train and test on")
    if not 0 <= validation < trained:
        raise UsageError(f"{validation:,} of {trained:,} training sequences cannot be held out")
    tokens, labels = dataset.read(0, len(dataset), (length,))
    assert labels is not None
    cut = trained - validation
    held = slice(cut, trained) if validation else slice(trained, len(dataset))
    return LabelledTokens(tokens[:cut], labels[:cut]), LabelledTokens(tokens[held], labels[held])
