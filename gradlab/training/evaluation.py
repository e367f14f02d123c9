"""Loss and error of a network on labelled images, in eval mode and without augmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.data.dealing import dealt
from gradlab.errors import GradlabError
from gradlab.probes.outputs import logits_of
from gradlab.stats.precision import widest
from gradlab.training.arithmetic import Arithmetic
from gradlab.training.images import LabelledImages
from gradlab.training.parallel import ALONE, Parallel
from gradlab.training.tokens import LabelledTokens


def answers(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits of a network, which may be part of a named output.

    Raises:
        GradlabError: If it returns none.
    """
    if (logits := logits_of(model(inputs))) is None:
        raise GradlabError(f"{type(model).__name__} returns no logits, so it cannot be trained")
    return logits


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: LabelledImages | LabelledTokens,
    arithmetic: Arithmetic,
    batch_size: int = 500,
    parallel: Parallel = ALONE,
) -> tuple[float, float]:
    """Compute the mean cross-entropy and the error rate, without changing the model's mode.

    Args:
        model: A model that maps images to logits.
        images: The images, all of which are used.
        arithmetic: The precision and device of the computation.
        batch_size: The number of images per batch.
        parallel: The processes that share the batches.

    Returns:
        The mean cross-entropy in nats, and the fraction of misclassified images, from 0 to 1.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    total = torch.zeros(2, dtype=widest(images.labels.device), device=images.labels.device)
    for pixels, labels in dealt(images.batches(batch_size), parallel.rank, parallel.size):
        with arithmetic.precision(), arithmetic.autocast():
            logits = answers(model, arithmetic.layout(pixels)).float()
        logits, labels = logits.flatten(0, -2), labels.flatten()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        total += torch.stack((loss, (logits.argmax(1) != labels).sum().to(loss))).to(total)
    for module, mode in modes.items():
        module.training = mode
    loss_sum, wrong = parallel.sum_(total).tolist()
    return loss_sum / images.labels.numel(), wrong / images.labels.numel()
