"""What theory predicts for the stream of a network as initialized, where it says anything."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradlab.experiments.request import BatchNormMode
from gradlab.experiments.subject import has_batch_norm, is_trained
from gradlab.theory import predicted_stream_variance

CIFAR_SIDE = 32


def predicted_stream_std(model: nn.Module, bn: BatchNormMode, inputs: Tensor) -> list[float]:
    """Return the predicted std of the stream over channels, positions and examples, behind every block.

    The tokens that enter a transformer are taken as they are; what is predicted is what its blocks make of them.

    Args:
        model: From `gl.build`; theory says nothing of others, nor of trained weights.
        bn: Statistics of its batch normalization; there is theory for those of the batch.
        inputs: A batch of its data.

    Returns:
        A value a block; none where no theory applies.
    """
    description = getattr(getattr(model, "network", None), "description", None)
    if description is None or is_trained(model):
        return []
    if has_batch_norm(model) and (bn != "batch" or inputs.shape[-1] != CIFAR_SIDE):
        return []
    facts = description.to_dict()
    start = _token_covariance(model, inputs) if facts["block"] == "transformer" else None
    variance = predicted_stream_variance(facts, start)
    return [] if variance is None else variance.sqrt().tolist()


def _token_covariance(model: nn.Module, inputs: Tensor) -> Tensor:
    """The mean over sequences of x·xᵀ/d of the tokens x (T, d) that enter the first block."""
    found: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().double().cpu()
        found.append((x @ x.mT / x.shape[-1]).mean(0))

    with model.get_submodule("blocks.0").register_forward_pre_hook(hook), torch.no_grad():
        model(inputs)
    return found[0]
