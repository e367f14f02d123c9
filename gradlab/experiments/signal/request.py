"""The request of `gl.signal` and `gradlab signal`."""

from dataclasses import dataclass
from typing import Literal

from gradlab.experiments.request import MOST, NetworksRequest, again, asked

LossName = Literal["cross-entropy", "sum"]


@dataclass(frozen=True, kw_only=True)
class SignalRequest(NetworksRequest):
    """Networks and data, and the options for signals by block."""

    images: int | None = again(NetworksRequest, "images", 32)
    batch_size: int = again(NetworksRequest, "batch_size", 32)
    seed: int = again(NetworksRequest, "seed", 0, help="The first seed of initial weights, and the seed of noise.")
    seeds: int = asked(1, "The number of initializations to measure of each network at init.", "N", least=1, most=MOST)
    loss: LossName = asked(
        "cross-entropy",
        "cross-entropy, or sum: the sum of the outputs, which needs no labels; either is averaged over examples.",
    )
    tokens: bool = asked(False, "Also measure the rank and the mean cosine of the tokens after every block.")
    exact: bool = asked(False, "Use centred float64 statistics: slower, and accurate for any mean.")
