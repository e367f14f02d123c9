"""`gradlab activations`: the activity of rectifiers along a line of inputs."""

from pathlib import Path

import gradlab as gl
from gradlab.experiments.activations.request import ActivationsRequest

from . import options
from .saving import Saving


@options.with_options(out=Path("results/activations"))
def activations(nets: ActivationsRequest, saving: Saving) -> None:
    """Show which rectifiers of random nets are active along a line of inputs (Balduzzi et al. 2017, Fig. 4).

    Shown are a raster of the last layer, the lengths of the runs of inputs at which its neurons are active, beside coin
    flips, and the fraction of neighbouring inputs at which neurons switch, layer by layer, beside infinite width.
    Writes activations.csv (one row per net and layer), activations-runs.csv, rasters.npz, activations.json and the
    figure.

        gradlab activations

        gradlab activations --depth 24 --families ff-norm=none,ff-norm=center,resnet
    """
    with saving.progress() as progress:
        result = gl.activations(**nets.arguments(), progress=progress)
    saving.report(result)
