"""What `gl.signal` and `gradlab signal` ask for."""

from dataclasses import dataclass
from typing import Literal

from gradlab.experiments.request import NetworksRequest, again, asked

LossName = Literal["cross-entropy", "sum"]


@dataclass(frozen=True, kw_only=True)
class SignalRequest(NetworksRequest):
    """Networks and data, and what is special to signals by block."""

    images: int | None = again(NetworksRequest, "images", 32)
    batch_size: int = again(NetworksRequest, "batch_size", 32)
    seed: int = again(NetworksRequest, "seed", 0, help="The first seed of initial weights, and the seed of noise.")
    seeds: int = asked(1, "How many initial weights to measure of each network at init.", "N", least=1)
    loss: LossName = asked(
        "cross-entropy",
        "cross-entropy, or sum: the sum of the outputs, which needs no labels; either is averaged over examples.",
    )
    exact: bool = asked(False, "Take centred float64 statistics: slower, and right for any mean.")
