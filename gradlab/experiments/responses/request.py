"""The request of `gl.responses` and `gradlab responses`."""

from dataclasses import dataclass

from gradlab.experiments.request import LayersRequest, asked


@dataclass(frozen=True, kw_only=True)
class ResponsesRequest(LayersRequest):
    """Networks and data, and the options for layer responses."""

    exact: bool = asked(False, "Use centred float64 statistics: slower, and accurate for any mean.")
    no_data: bool = asked(False, "Predict from the parameters of batch normalization, without images.")
    same_recipe: bool = asked(False, "Compare checkpoints whose recipes are unknown as if they had the same recipe.")
