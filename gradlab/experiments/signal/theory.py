"""Theoretical predictions for the stream of a network at initialization."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradlab.experiments.request import BatchNormMode
from gradlab.experiments.subject import has_batch_norm, is_trained
from gradlab.facts import architecture_of
from gradlab.theory import predicted_stream_variance

CIFAR_SIDE = 32


def predicted_stream_std(model: nn.Module, bn: BatchNormMode, inputs: Tensor) -> list[float]:
    """Return the predicted std of the stream over channels, positions and examples, after every block.

    For a transformer, the prediction starts from the tokens that enter its first block.

    Args:
        model: A network from `gl.build`; no theory applies to others, nor to trained weights.
        bn: The statistics for batch normalization; theory applies to those of the batch.
        inputs: A batch of its data.

    Returns:
        One value per block; an empty list if no theory applies.
    """
    description = architecture_of(model)
    if description is None or is_trained(model):
        return []
    if has_batch_norm(model) and (bn != "batch" or inputs.shape[-1] != CIFAR_SIDE):
        return []
    facts = description.to_dict()
    start = _token_covariance(model, inputs) if facts["block"] == "transformer" else None
    variance = predicted_stream_variance(facts, start)
    return [] if variance is None else variance.sqrt().tolist()


def _token_covariance(model: nn.Module, inputs: Tensor) -> Tensor:
    """The mean over sequences of x·xᵀ/d for the tokens x (T, d) that enter the first block."""
    found: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().double().cpu()
        found.append((x @ x.mT / x.shape[-1]).mean(0))

    with model.get_submodule("blocks.0").register_forward_pre_hook(hook), torch.no_grad():
        model(inputs)
    return found[0]
