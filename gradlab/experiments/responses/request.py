"""What `gl.responses` and `gradlab responses` ask for."""

from dataclasses import dataclass

from gradlab.experiments.request import LayersRequest, asked


@dataclass(frozen=True, kw_only=True)
class ResponsesRequest(LayersRequest):
    """Networks and data, and what is special to layer responses."""

    exact: bool = asked(False, "Take centred float64 statistics: slower, and right for any mean.")
    no_data: bool = asked(False, "Predict from the parameters of batch normalization; no image is read.")
    same_recipe: bool = asked(False, "Compare checkpoints that do not say how they were trained.")
