"""What `gl.gradients` and `gradlab gradients` ask for."""

from dataclasses import dataclass
from typing import Literal

from gradlab.errors import UsageError
from gradlab.experiments.request import Dtype, LayersRequest, again, asked

LossName = Literal["cross-entropy", "sum"]
Mode = Literal["parameters", "responses"]


@dataclass(frozen=True, kw_only=True)
class GradientsRequest(LayersRequest):
    """Networks and data, and what is special to gradients layer by layer."""

    images: int | None = again(LayersRequest, "images", 128)
    batch_size: int = again(LayersRequest, "batch_size", 128)
    seed: int = again(LayersRequest, "seed", 0, help="The first seed of initial weights, and the seed of noise.")
    seeds: int = asked(5, "How many initial weights to measure of each network at init.", "N", least=1)
    loss: LossName = asked(
        "cross-entropy",
        "cross-entropy, or sum: the sum of the outputs, which needs no labels; either is averaged over images.",
    )
    mode: Mode = asked(
        "parameters",
        "What table and figure show. parameters: the norms of the weights' gradients. responses: the RMS of the "
        "gradient with respect to each layer's response. The files have both.",
    )
    dtype: Dtype | None = asked(
        None,
        "The arithmetic of the networks. Default: float32, and float64 where a small batch shows float32 to be off by "
        "more than 0.5 %, or with --per-example an image's loss is below 1e-5. An explicit float32 is marked there, "
        "not replaced.",
    )
    per_example: bool = asked(
        False,
        "Measure each image's own gradient, too: mean norm, variance, noise scale, diversity and cosine by layer. It "
        "needs --bn eval.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_example and self.bn == "batch":
            raise UsageError(
                "batch statistics couple the examples, so that none has a gradient of its own: per-example gradients "
                "need bn eval (--bn eval)"
            )
