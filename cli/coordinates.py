"""`gradlab coordinates`: the coordinate check."""

from pathlib import Path

import gradlab as gl
from gradlab.experiments.coordinates.request import CoordinatesRequest

from . import options
from .saving import Saving


@options.with_options(network="make_model", out=Path("results/coordinates"))
def coordinates(asked: CoordinatesRequest, saving: Saving) -> None:
    """Check how responses and their changes scale with width and depth (Yang et al. 2022, 2203.03466).

    Networks of each size are trained for a few steps on one batch. The root mean square of each layer's response at
    initialization, of its change, and of the part of the change that is due to its own weights, is fitted by a power of
    the width or depth, and the exponent is compared with that of μP or of the standard parametrization. Writes
    coordinates.csv (one row per size, seed, step and layer), coordinates.json (the record) and the figure.

        gradlab coordinates my_package.nets:make_model --widths 64,128,256,512

        gradlab coordinates 'resnet{depth}' --depths 8,14,20 --seeds 3
    """
    with saving.progress() as progress:
        result = gl.coordinate_check(**asked.arguments(), progress=progress)
    saving.report(result)
