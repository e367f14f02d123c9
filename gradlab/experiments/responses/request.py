"""The request of `gl.responses` and `gradlab responses`."""

from dataclasses import dataclass
from typing import Literal

from gradlab.experiments.request import LayersRequest, asked

Crops = Literal["center", "ten", "scales"]


@dataclass(frozen=True, kw_only=True)
class ResponsesRequest(LayersRequest):
    """Networks and data, and the options for layer responses."""

    exact: bool = asked(False, "Use centred float64 statistics: slower, and accurate for any mean.")
    no_data: bool = asked(False, "Predict from the parameters of batch normalization, without images.")
    crops: Crops = asked(
        "center",
        "How accuracy is tested: on the centre of each image, ten crops, or scales: whole images at five scales. The "
        "last two need imagefolder:PATH; responses are those to the centre in any case.",
    )
    same_recipe: bool = asked(False, "Compare checkpoints whose recipes are unknown as if they had the same recipe.")
