"""Which answers of a network are right, and whether so few are that its weights tell nothing."""

import torch.nn.functional as F
from torch import Tensor


def fits(logits: Tensor, labels: Tensor) -> bool:
    """Whether there are logits for every label: (B, classes) for (B,), or (B, T, classes) for (B, T)."""
    return logits.shape[:-1] == labels.shape and int(labels.max()) < logits.shape[-1]


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Which outputs are largest at their label; one with NaN is no right answer, wherever its argmax is.

    Args:
        logits: (…, classes).
        labels: (…).

    Returns:
        (B,), float32: 1 for a right answer, or of tokens the share of right answers in each sequence.
    """
    right = (logits.argmax(-1) == labels) & ~logits.isnan().any(-1)
    return right.float().flatten(1).mean(1) if right.ndim > 1 else right.float()


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of every example, of tokens the mean over its tokens: (B,), in nats.

    Args:
        logits: (…, classes).
        labels: (…).
    """
    each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    return each.flatten(1).mean(1) if each.ndim > 1 else each


def near_chance(accuracy: float, classes: int, images: int) -> bool:
    """Whether an accuracy is one that a network which learnt nothing of this data may have.

    Up to twice chance (of few classes halfway from chance to 1), or chance plus four standard errors where few images
    make that more. So few that this passes halfway to 1 tell nothing of the weights.
    """
    chance = 1 / classes
    error: float = (chance * (1 - chance) / images) ** 0.5
    halfway = (1 + chance) / 2
    return chance + 4 * error <= halfway and accuracy <= max(min(2 * chance, halfway), chance + 4 * error)
