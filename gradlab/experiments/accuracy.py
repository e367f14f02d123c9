"""Which answers of a network are right, and whether so few are that its weights tell nothing."""

from torch import Tensor


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Which outputs are largest at their label; one with NaN is no right answer, wherever its argmax is."""
    return (logits.argmax(1) == labels) & ~logits.isnan().any(1)


def near_chance(accuracy: float, classes: int, images: int) -> bool:
    """Whether an accuracy is one that a network which learnt nothing of this data may have.

    Up to twice chance (of few classes halfway from chance to 1), or chance plus four standard errors where few images
    make that more. So few that this passes halfway to 1 tell nothing of the weights.
    """
    chance = 1 / classes
    error: float = (chance * (1 - chance) / images) ** 0.5
    halfway = (1 + chance) / 2
    return chance + 4 * error <= halfway and accuracy <= max(min(2 * chance, halfway), chance + 4 * error)
