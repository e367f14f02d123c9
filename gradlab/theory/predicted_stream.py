"""Prediction of the variance of a network's stream at initialization from its description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradlab.theory.residual_net_stream import preactivation_stream, rectified_stream
from gradlab.theory.residual_stream import deepnorm_constants
from gradlab.theory.token_kernel import exchangeable_kernel
from gradlab.theory.transformer_stream import TransformerLaw, stream_variance

CIFAR_SIZES = (32, 16, 8)


def predicted_stream_variance(facts: Mapping[str, Any], start: Tensor | None = None) -> Tensor | None:
    """Predict the variance of the stream over channels, positions and examples after every block at initialization.

    There are predictions for our transformers (see `TransformerLaw`), and for CIFAR nets of basic blocks with option A
    and batch normalization by batch statistics (`preactivation_stream`, `rectified_stream`). All are limits of infinite
    width; docs/transformers.md describes the effects of finite width.

    Args:
        facts: The description of a network as plain values, `NetworkDescription.to_dict()`, as in a record.
        start: The covariance of the tokens that enter a transformer's first block, divided by the width, shape (T, T):
            the mean over sequences of x·xᵀ/d. None assumes different tokens, as in an initialized gpt with uniform
            random tokens; it is required for a vit, whose tokens are as similar as the patches of its images.

    Returns:
        A float64 tensor of shape (blocks,), or None if no theory applies.
    """
    if facts["family"] in ("gpt", "vit"):
        kernel = start if start is not None else _different_tokens(facts)
        return None if kernel is None else stream_variance(transformer_law(facts).kernels(kernel))
    options = facts["options"]
    known = {"shortcut": "A", "beta": options.get("beta", 1.0)}
    if (facts["family"], facts["form"], facts["block"]) != ("resnet", "cifar", "basic") or {
        **known,
        **options,
    } != known:
        return None
    blocks = (facts["depth"] - 2) // 6
    if facts["unit"] == "preact":
        return preactivation_stream(blocks, CIFAR_SIZES, known["beta"])
    return rectified_stream(blocks, len(CIFAR_SIZES), known["beta"]) if facts["unit"] == "original" else None


def transformer_law(facts: Mapping[str, Any]) -> TransformerLaw:
    """Make the law of one of our transformers from its description as plain values."""
    options, blocks, width = facts["options"], facts["depth"], facts["width"]
    scale = options["scale"]
    gains: dict[str, Any] = {"logits": 1.0, "attention": 1.0, "first": 1.0, "last": 1.0}
    if options["init"] == "gpt2":
        gain = 0.02**2 * width
        gains = {"logits": gain**2, "attention": gain**2 / (2 * blocks), "first": gain, "last": 2 * gain / blocks}
    elif scale == "deepnorm":
        # Xavier's variance 2/(5d) in the perceptron; β² with it, and in values and projection.
        small = deepnorm_constants(blocks)[1] ** 2
        gains |= {"attention": small**2, "first": 0.4 * small, "last": 1.6 * small}
    elif scale == "fixup":
        gains |= {"attention": 0.0, "last": 0.0}
    return TransformerLaw(
        blocks,
        norm=facts["unit"],
        causal=facts["family"] == "gpt",
        activation=options["activation"],
        shortcut=facts["kind"] == "residual",
        stream=deepnorm_constants(blocks)[0] if scale == "deepnorm" else 1.0,
        branch={"sqrt": 1 / math.sqrt(blocks), "completep": 1 / blocks, "skipinit": 0.0, "rezero": 0.0}.get(scale, 1.0),
        head_width=width // options["heads"],
        eps=1e-5 if facts["family"] == "gpt" else 1e-6,
        **gains,
    )


def _different_tokens(facts: Mapping[str, Any]) -> Tensor | None:
    """Return the covariance of uniform random tokens with positions, each with half of the variance."""
    if facts["family"] != "gpt":
        return None
    options = facts["options"]
    variance = 2 * 0.02**2 if options["init"] == "gpt2" else 1.0
    return exchangeable_kernel(options["tokens"], variance, 0.5 / options["vocabulary"])
