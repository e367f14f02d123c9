"""What the blocks of a transformer are like: where they normalize, and how they weigh what they add."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["pre", "post", "sandwich", "none"]
"""Before the branch, x + F(N(x)); after the addition, N(x + F(x)); both sides of the branch, x + N(F(N(x))); nowhere.

Xiong et al. 2020 (arXiv:2002.04745), Fig. 1, for the first two; Ding et al. 2021 (CogView, arXiv:2105.13290), §2.4, for
the sandwich.
"""

Scale = Literal["one", "deepnorm", "sqrt", "completep", "fixup", "skipinit", "rezero"]
"""How a branch is weighed against the stream; see `Style`."""

Activation = Literal["gelu", "relu", "silu", "tanh", "linear"]

NORMS, SCALES, ACTIVATIONS = get_args(Norm), get_args(Scale), get_args(Activation)

LEARNT: tuple[Scale, ...] = ("fixup", "skipinit", "rezero")
"""Scales that the network learns, in the place of normalization."""

FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": F.tanh,
    "linear": lambda z: z,
}


@dataclass(frozen=True)
class Style:
    """What the blocks are like, besides their sizes.

    With L blocks of two branches each, attention and perceptron, a branch is added as α·x + λ·F(x):

    - `one`: α = λ = 1.
    - `sqrt`: λ = 1/√L, as depth-μP has it (Yang et al. 2023, arXiv:2310.02244) and Noci et al. 2022
      (arXiv:2206.03126) for transformers.
    - `completep`: λ = 1/L (Dey et al. 2025, arXiv:2505.01618), with one block as the base depth. What μP says of width
      and of learning rates is no part of a network as initialized.
    - `deepnorm`: N(α·x + F(x)) with α = (2L)^(1/4), and weights of values, attention's projection and the perceptron
      drawn (8L)^(1/4) times smaller (Wang et al. 2022, arXiv:2203.00555, Fig. 2, for an encoder or a decoder alone).
    - `fixup`: the last layer of every branch begins at 0, the ones before it (2L)^(−1/2) times smaller, and a learnt λ
      at 1 (Zhang et al. 2019, arXiv:1901.09321, with 2L branches of m = 2 layers: L^(−1/(2m−2))).
    - `skipinit`: a learnt λ for every branch that begins at 0 (De and Smith 2020, arXiv:2002.10444).
    - `rezero`: one for both branches of a block, at 0 (Bachlechner et al. 2020, arXiv:2003.04887).

    Attributes:
        depth: L.
        norm: Where blocks normalize.
        rms: Whether they divide by the root of the mean square alone (RMSNorm), without centring.
        scale: How a branch is weighed.
        activation: Of the perceptron.
        shortcut: Whether the branch is added to its input; otherwise it takes its place.
    """

    depth: int
    norm: Norm = "pre"
    rms: bool = False
    scale: Scale = "one"
    activation: Activation = "gelu"
    shortcut: bool = True

    @property
    def stream_factor(self) -> float:
        """α."""
        return float((2 * self.depth) ** 0.25) if self.scale == "deepnorm" else 1.0

    @property
    def branch_factor(self) -> float:
        """λ, where it is not learnt."""
        return {"sqrt": 1 / math.sqrt(self.depth), "completep": 1 / self.depth}.get(self.scale, 1.0)

    @property
    def weight_factors(self) -> tuple[float, float]:
        """What weights on the way through a branch are multiplied by, and those of its last layer.

        Those on the way are the values' and the perceptron's first.
        """
        if self.scale == "deepnorm":
            return (8 * self.depth) ** -0.25, (8 * self.depth) ** -0.25
        return (1 / math.sqrt(2 * self.depth), 0.0) if self.scale == "fixup" else (1.0, 1.0)

    @property
    def ends_normalized(self) -> bool:
        """Whether the stream is normalized once more behind the last block."""
        return self.norm in ("pre", "sandwich")

    def normalization(self, width: int, eps: float) -> nn.Module:
        """A normalization of the last dimension."""
        return nn.RMSNorm(width, eps) if self.rms else nn.LayerNorm(width, eps)

    def function(self) -> Callable[[Tensor], Tensor]:
        """The activation."""
        return FUNCTIONS[self.activation]
