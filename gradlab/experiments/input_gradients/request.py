"""The request of `gl.input_gradients` and `gradlab shatter --model`."""

from dataclasses import dataclass

from gradlab.errors import UsageError
from gradlab.experiments.request import MOST, Dtype, NetworksRequest, NormGrad, again, asked


@dataclass(frozen=True, kw_only=True)
class InputGradientsRequest(NetworksRequest):
    """Networks and data, and the options for the correlation of input gradients."""

    images: int | None = again(NetworksRequest, "images", 200)
    batch_size: int = again(NetworksRequest, "batch_size", 100, least=2)
    seed: int = again(NetworksRequest, "seed", 0, help="The seed of the first network; the others follow it.")
    seeds: int = asked(4, "The number of networks to measure of each kind.", "N", least=1, most=MOST)
    norm_grad: NormGrad = asked(
        "frozen",
        "frozen: the gradient treats the statistics of normalization as constants, as in the theorems. full: the "
        "gradient passes through them.",
    )
    points: int = asked(256, "The number of inputs on a line, evenly spaced.", "N", least=3, most=20_000)
    lags: int = asked(20, "The largest lag.", "N", least=1)
    dtype: Dtype = asked("float32", "The dtype of the arithmetic.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lags >= self.points:
            raise UsageError(f"{self.points} points have the lags 1 to {self.points - 1}, not {self.lags}")
