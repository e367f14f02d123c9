"""Data sets of tokens, random or the bytes of any file; the label of a token is the next token."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gradlab.data.datasets import Asked, Items
from gradlab.data.images import MOST_SEED
from gradlab.errors import GradlabError, UsageError

BYTES = 256
"""The number of values of a byte: the vocabulary of text, and of a network that does not specify one."""

LENGTH = 128
"""The length of a sequence if the network does not specify one."""

SEQUENCES = 256
"""The number of sequences in a data set of random tokens."""

SUCCESSORS = (0.5, 0.25, 0.125, 0.125)
"""The transition probabilities from a token of the Markov chain; their entropy is 1.213 nats, or 1.75 bits."""


@dataclass
class RandomTokens:
    """Sequences of random tokens; sequence i depends only on the seed and i, not on the batches.

    Attributes:
        name: The requested name.
        seed: The seed of the random draws.
        classes: The size of the vocabulary.
        length: The number of tokens in a sequence.
        markov: Whether the tokens form a Markov chain, in which each token has four successors, drawn from the seed,
            with the probabilities `SUCCESSORS`; otherwise all tokens are independent and equally likely.
        count: The number of sequences.
    """

    name: str
    seed: int
    classes: int
    length: int
    markov: bool = False
    count: int = SEQUENCES
    normalized: bool = True
    default_normalization: str = "none"
    items: Items = "tokens"
    _successors: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < MOST_SEED:
            raise UsageError(f"a seed of tokens is from 0 to below 2^40; got {str(self.seed)[:40]}")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + MOST_SEED)
        rows = self.classes if self.markov else 0
        self._successors = torch.randint(self.classes, (rows, len(SUCCESSORS)), generator=generator)

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Draw the sequences from `start` to before `stop`: tokens (B, T) and the tokens that follow them, int64."""
        sequences = torch.stack([self._sequence(place) for place in range(start, stop)])  # (B, T + 1)
        return sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()

    def largest_label(self, stop: int) -> int:
        """Return the largest token that may be drawn."""
        return self.classes - 1

    def _sequence(self, place: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + place)
        tokens = torch.randint(self.classes, (self.length + 1,), generator=generator)
        if not self.markov:
            return tokens
        chances = torch.tensor(SUCCESSORS)
        chosen = torch.multinomial(chances, self.length, replacement=True, generator=generator)
        row, table = [int(tokens[0])], self._successors
        for choice in chosen.tolist():
            row.append(int(table[row[-1], choice]))
        return torch.tensor(row)


@dataclass
class TextTokens:
    """The bytes of a file as sequences without overlap; an incomplete sequence at the end is left out.

    Attributes:
        name: The requested name.
        content: The bytes, (N,) uint8.
        length: The number of tokens in a sequence.
        classes: The size of the vocabulary, which exceeds the largest byte.
    """

    name: str
    content: Tensor
    length: int
    classes: int
    normalized: bool = True
    default_normalization: str = "none"
    items: Items = "tokens"

    def __len__(self) -> int:
        return (len(self.content) - 1) // self.length

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Read the sequences from `start` to before `stop`: tokens (B, T) and the tokens that follow them, int64."""
        first, last = start * self.length, stop * self.length
        tokens, labels = self.content[first:last], self.content[first + 1 : last + 1]
        return tokens.view(-1, self.length).long(), labels.view(-1, self.length).long()

    def largest_label(self, stop: int) -> int:
        """See `Dataset`."""
        return int(self.content[1 : stop * self.length + 1].max())


def load_tokens(asked: Asked) -> RandomTokens:
    """Load random tokens: `tokens` or `tokens:markov`."""
    classes, length = asked.vocabulary or BYTES, _length(asked)
    return RandomTokens(asked.name, asked.seed, classes, length, markov=asked.name.endswith(":markov"))


def load_text(asked: Asked) -> TextTokens:
    """Load the bytes of a file: `text:PATH`.

    Raises:
        UsageError: If the path is not a file, or a byte is outside the network's vocabulary.
        GradlabError: If the file cannot be read or is shorter than one sequence.
    """
    content = read_bytes(asked.name, asked.path)
    length, classes = _length(asked), asked.vocabulary or BYTES
    if len(content) <= length:
        raise GradlabError(f"{asked.name} has {len(content):,} bytes, and a sequence takes {length + 1:,}")
    if (largest := int(content.max())) >= classes:
        raise UsageError(
            f"{asked.name} has the byte {largest}, and the network takes tokens below {classes}: give it a vocabulary "
            f"of {BYTES}"
        )
    return TextTokens(asked.name, content, length, classes)


def read_bytes(name: str, path: Path) -> Tensor:
    """The bytes of a file, (N,) uint8.

    Raises:
        UsageError: If the path is not a file.
        GradlabError: If the file cannot be read or is empty.
    """
    if not os.path.isfile(path):
        raise UsageError(f"{name}: {path} is not a file")
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise GradlabError(f"{name} cannot be read: {error.strerror}") from None
    if not content:
        raise GradlabError(f"{name} is empty")
    return torch.frombuffer(content, dtype=torch.uint8)


def _length(asked: Asked) -> int:
    return asked.shape[0] if asked.shape is not None and len(asked.shape) == 1 else LENGTH
