"""The correct answers of a network, and whether they are too few for conclusions from its weights."""

import torch.nn.functional as F
from torch import Tensor


def fits(logits: Tensor, labels: Tensor, largest: int | None) -> bool:
    """Whether there are logits for every label: (B, classes) for (B,), or (B, T, classes) for (B, T).

    Args:
        logits: The logits.
        labels: The labels, which are not read, since they may be on a busy device.
        largest: The largest label of the data; None for data without classes.
    """
    return logits.shape[:-1] == labels.shape and largest is not None and largest < logits.shape[-1]


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether outputs are largest at their label; an output with NaN is never correct.

    Args:
        logits: The logits, (…, classes).
        labels: The labels, (…).

    Returns:
        A tensor (B,), float32: 1 for a correct answer, or for tokens the fraction of correct answers in each sequence.
    """
    right = (logits.argmax(-1) == labels) & ~logits.isnan().any(-1)
    return right.float().flatten(1).mean(1) if right.ndim > 1 else right.float()


def wrong_by_nan(outputs: str, count: int) -> str:
    """Say that outputs with NaN are wrong answers, as `right_answers` takes them.

    Args:
        outputs: The outputs in words.
        count: Their grammatical number.
    """
    return (
        f"{outputs} {'holds NaN and counts as a wrong answer' if count == 1 else 'hold NaN and count as wrong answers'}"
    )


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of every example in nats, (B,), averaged over tokens for sequences.

    Args:
        logits: The logits, (…, classes).
        labels: The labels, (…).
    """
    each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    return each.flatten(1).mean(1) if each.ndim > 1 else each


def near_chance(accuracy: float, classes: int, images: int) -> bool:
    """Whether an accuracy is so low that the network may have learnt nothing from this data.

    The bound is twice chance, or halfway from chance to 1 for few classes, or chance plus four standard errors if that
    is larger because there are few images. If the latter is more than halfway to 1, there are too few images to decide.
    """
    chance = 1 / classes
    error: float = (chance * (1 - chance) / images) ** 0.5
    halfway = (1 + chance) / 2
    return chance + 4 * error <= halfway and accuracy <= max(min(2 * chance, halfway), chance + 4 * error)
