"""The request of `gl.gradients` and `gradlab gradients`."""

from dataclasses import dataclass
from typing import Literal

from gradlab.errors import UsageError
from gradlab.experiments.request import MOST, Dtype, LayersRequest, again, asked

LossName = Literal["cross-entropy", "sum"]
Mode = Literal["parameters", "responses"]


@dataclass(frozen=True, kw_only=True)
class GradientsRequest(LayersRequest):
    """Networks and data, and the options for gradients layer by layer."""

    images: int | None = again(LayersRequest, "images", 128)
    batch_size: int = again(LayersRequest, "batch_size", 128)
    seed: int = again(LayersRequest, "seed", 0, help="The first seed of initial weights, and the seed of noise.")
    seeds: int = asked(5, "The number of initializations to measure of each network at init.", "N", least=1, most=MOST)
    loss: LossName = asked(
        "cross-entropy",
        "cross-entropy, or sum: the sum of the outputs, which needs no labels; either is averaged over images. Of a "
        "detector each term of its loss, or with sum their sum.",
    )
    mode: Mode = asked(
        "parameters",
        "The quantity in table and figure. parameters: the norms of the weights' gradients. responses: the RMS of the "
        "gradient with respect to each layer's response. The files have both.",
    )
    dtype: Dtype | None = asked(
        None,
        "The dtype of the arithmetic. Default: float32, and float64 if the error of float32 in a small batch exceeds "
        "0.5 %, or with --per-example an image's loss is below 1e-5. With an explicit float32 these cases are only "
        "marked.",
    )
    per_example: bool = asked(
        False,
        "Also measure the gradient of each image: mean norm, variance, noise scale, diversity and cosine by layer. It "
        "needs --bn eval.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_example and self.bn == "batch":
            raise UsageError(
                "batch statistics couple the examples, so that none has a gradient of its own: per-example gradients "
                "need bn eval (--bn eval)"
            )
