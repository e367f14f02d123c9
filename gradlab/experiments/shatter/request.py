"""The request of `gl.shatter`, and of `gradlab shatter` without `--model`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradlab.errors import UsageError
from gradlab.experiments import text
from gradlab.experiments.request import MOST, MOST_SEED, Dtype, NormGrad, Request, asked

FAMILIES = ("ff", "resnet", "resnet-beta=0.1", "ll")
Init = Literal["he", "glorot", "orthogonal"]

MOST_VALUES = 20_000_000
"""The largest width times the sum of depth and points, since each of these values of a net takes sixteen bytes."""


@dataclass(frozen=True, kw_only=True)
class ShatterRequest(Request):
    """Random fully connected nets and a line of inputs."""

    depths: "Sequence[int] | int" = asked(
        (8, 32, 128),
        "ReLU layers, or residual blocks; comma-separated or repeated. Default: 8,32,128.",
        "LIST",
        least=1,
        most=MOST,
        typed=list[str],
        read=text.whole_numbers,
    )
    families: "Sequence[str] | str" = asked(
        FAMILIES,
        "ff, resnet and ll (looks linear), with settings: ff-norm=none|center|rms|bn, resnet-norm=…, resnet-beta=0.1, "
        f"ff-norm=none-bias=0. Plain ff means center up to depth 50 and bn above. Default: {','.join(FAMILIES)}.",
        "LIST",
        typed=list[str],
        read=text.items,
    )
    seeds: int = asked(20, "The number of networks to measure of each kind.", "N", least=1, most=MOST)
    lags: int = asked(20, "The largest lag.", "N", least=0)
    width: int = asked(200, "The number of neurons in a layer.", "N", least=1, most=MOST)
    points: int = asked(256, "The number of inputs on a line, evenly spaced.", "N", least=3, most=MOST)
    interval: tuple[float, float] = asked(
        (-2.0, 2.0),
        "The first and the last input. Default: -2:2.",
        "FROM:TO",
        "--range",
        typed=str,
        read=text.interval,
    )
    norm_grad: NormGrad = asked(
        "frozen",
        "frozen: the gradient treats the statistics of normalization as constants, as in the theorems. full: the "
        "gradient passes through them.",
    )
    init: Init = asked("he", "The initialization of the hidden weights.")
    dtype: Dtype = asked("float32", "The dtype of the arithmetic.")
    device: str = asked("auto", "The device: auto, cpu, cuda, cuda:1 or mps.", "DEVICE")
    seed: int = asked(0, "The seed of the first network; the others follow it.", "N", least=0, most=MOST_SEED - MOST)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.listed_families():
            raise UsageError("name at least one family: ff, resnet, resnet-beta=0.1, ll")
        if not self.listed_depths():
            raise UsageError("name at least one depth")
        if self.lags >= self.points:
            raise UsageError(f"{self.points} points have the lags 0 to {self.points - 1}, not {self.lags}")
        check_line(self.interval, self.points, self.dtype)
        deepest = self.listed_depths()[-1]
        if self.width * (deepest + self.points) > MOST_VALUES:
            raise UsageError(
                f"the width times the sum of depth and points is at most {MOST_VALUES:,}, not {self.width:,} × "
                f"({deepest:,} + {self.points:,})"
            )

    def listed_depths(self) -> list[int]:
        """The depths in ascending order, without repetitions."""
        return sorted({self.depths} if isinstance(self.depths, int) else set(self.depths))

    def listed_families(self) -> list[str]:
        """The families, without repetitions."""
        return [self.families] if isinstance(self.families, str) else list(dict.fromkeys(self.families))


def check_line(interval: tuple[float, float], points: int, dtype: Dtype) -> None:
    """Check that a line of inputs has as many different ones as it has points.

    Args:
        interval: The first and the last input.
        points: The number of inputs.
        dtype: The dtype in which the nets get them.

    Raises:
        UsageError: If it has not.
    """
    import numpy as np  # is heavy, and help needs none of it

    first, last = interval
    if not -math.inf < first < last < math.inf:
        raise UsageError(f"the range goes from a lower to a higher input, not from {first:g} to {last:g}")
    with np.errstate(over="ignore"):
        inputs = np.linspace(first, last, points).astype(dtype)
        apart = np.isfinite(inputs).all() and (np.diff(inputs) > 0).all()
    if not apart:
        raise UsageError(
            f"{points:,} inputs from {first:g} to {last:g} are not as many different numbers in {dtype}: give another "
            "range"
        )
