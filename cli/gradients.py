"""`gradlab gradients`: per-layer gradient norms."""

from pathlib import Path

import gradlab as gl
from gradlab.experiments.gradients.request import GradientsRequest

from . import options
from .saving import Saving


@options.with_options(out=Path("results/gradients"))
def gradients(asked: GradientsRequest, saving: Saving, layers_table: options.LayersTable = False) -> None:
    """Measure the gradient of the loss layer by layer, from the last layer to the first.

    Shown are the norm of each weight's gradient, the ratio of the first 3×3 layer's norm to the last one's, and the
    growth of the second moment per layer, with predictions of the literature for initial weights. Without normalization
    the second moment is constant (He et al. 2015, 1502.01852: mlp50-norm=none, or plain nets with --bn eval, in --mode
    responses). With batch normalization it grows by π/(π − 1) per layer (Yang et al. 2019, 1902.08129: plain nets,
    mlp50-norm=bn). With shortcuts it grows as a power of depth (De and Smith 2020, 2002.10444: residual nets).

    With --bn batch each full batch has its own gradient, and norms are averaged over batches; with --bn eval the
    gradient is that of the mean loss over all images. Writes gradients.csv (one row per seed and layer), gradients.json
    (the record) and the figure.

        gradlab gradients --model plain20,plain56,resnet20,resnet56 --weights init

        gradlab gradients --model mlp50-norm=none@init --data noise --loss sum --mode responses
    """
    from gradlab.results.tables import rich_table

    with saving.progress() as progress:
        result = gl.gradients(**asked.arguments(), progress=progress)
    shown = result.networks if layers_table else []
    saving.report(
        result, [rich_table(result.layers_table(network), result.formats, title=network) for network in shown]
    )
