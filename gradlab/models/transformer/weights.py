"""Transformers as initialized, drawn from an explicit seed and from nothing else."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import nn

from gradlab.models.transformer.block import Block
from gradlab.models.transformer.gpt import GPT
from gradlab.models.transformer.style import Style
from gradlab.models.transformer.vit import ViT

Init = Literal["lecun", "gpt2"]
"""`lecun`: variance 1/n with n the fan-in, so that every linear layer keeps the mean square of its input. `gpt2`: a std
of 0.02 everywhere, and 0.02/√(2L) in the layers whose output is added to the stream (Radford et al. 2019, §2.3)."""

INITS = get_args(Init)


@torch.no_grad()
def initialize(model: GPT | ViT, style: Style, init: Init, seed: int) -> None:
    """Initialize in place: biases 0, normalizations at their identity, weights and embeddings Gaussian.

    With `lecun` the embeddings of tokens, as they enter the stream, and those of positions have a variance of 1/2 each,
    so that the stream begins at 1. Networks of one size and seed are drawn from the same numbers, whatever their
    style. With `fixup` the classifier begins at 0 as well, where it is not tied to the embeddings.

    Args:
        model: With memory but without values.
        style: Of its blocks.
        init: How large the weights are.
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not (name == "head" and getattr(model, "tied", False)):
            module.weight.normal_(generator=generator).mul_(_std(name, module, style, init))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding | nn.Conv2d):
            module.weight.normal_(generator=generator).mul_(_embedding_std(model, name, init))
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.reset_parameters()
        elif isinstance(module, Block):
            for scale in module.parameters(recurse=False):
                scale.fill_(1.0 if style.scale == "fixup" else 0.0)
    if isinstance(model, ViT):
        for embedding in (model.class_token, model.positions):
            embedding.normal_(generator=generator).mul_(math.sqrt(0.5))


def _embedding_std(model: GPT | ViT, name: str, init: Init) -> float:
    """Of the embeddings of tokens, patches or positions."""
    if init == "gpt2":
        return 0.02
    if isinstance(model, ViT):
        return math.sqrt(0.5 / model.patches.weight[0].numel())
    return math.sqrt(0.5) / (model.embedding_scale if name == "tokens" else 1.0)


def _std(name: str, layer: nn.Linear, style: Style, init: Init) -> float | torch.Tensor:
    """Of a linear layer's weights: a number, or (3·d, 1) where queries, keys and values differ."""
    part = name.rpartition(".")[2]
    if init == "gpt2":
        return 0.02 / math.sqrt(2 * style.depth) if part in ("proj", "fc2") else 0.02
    if part == "head":
        return 0.0 if style.scale == "fixup" else 1 / math.sqrt(layer.in_features)
    # Wang et al. draw by Xavier's rule, which is 1/√d for the square weights of attention.
    of_perceptron = style.scale == "deepnorm" and part in ("fc1", "fc2")
    fan = (layer.in_features + layer.out_features) / 2 if of_perceptron else layer.in_features
    std, (inner, last) = 1 / math.sqrt(fan), style.weight_factors
    if part == "qkv":
        return torch.tensor([std, std, std * inner]).repeat_interleave(layer.in_features)[:, None]
    return std * (inner if part == "fc1" else last)
