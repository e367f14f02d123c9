"""`gradlab responses`: standard deviation of layer responses."""

from pathlib import Path

import gradlab as gl
from gradlab.experiments.responses.request import ResponsesRequest

from . import options
from .saving import Saving


@options.with_options(out=Path("results/responses"))
def responses(asked: ResponsesRequest, saving: Saving, layers_table: options.LayersTable = False) -> None:
    """Measure the standard deviation of layer responses (He et al. 2015, §4.2, Fig. 7).

    The response of a layer is its output after batch normalization and before any other nonlinearity or
    addition; its std is over images, channels and positions. Writes responses.csv (one row per layer), responses.json
    (the record) and the figure.

        gradlab responses --model plain20,plain56,resnet20,resnet56,resnet110

        gradlab responses --model resnet20@hub,resnet56@hub --data cifar10
    """
    from gradlab.results.tables import rich_table

    with saving.progress() as progress:
        result = gl.responses(**asked.arguments(), progress=progress)
    shown = result.networks if layers_table else []
    saving.report(result, [rich_table(result.layers(network), result.formats, title=network) for network in shown])
