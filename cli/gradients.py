"""`gradlab gradients`: per-layer gradient norms."""

from pathlib import Path

import gradlab as gl
from gradlab.experiments.gradients.request import GradientsRequest

from . import options
from .saving import Saving


@options.with_options(out=Path("results/gradients"))
def gradients(asked: GradientsRequest, saving: Saving, layers_table: options.LayersTable = False) -> None:
    """Measure the gradient of the loss layer by layer, from the last layer to the first.

    Shown are the norm of each weight's gradient, the first 3×3 layer's over the last one's, and the growth a
    layer of the second moment, beside what the literature says of initial weights: He et al. 2015 (1502.01852):
    constant without normalization (mlp50-norm=none, or plain nets with --bn eval, in --mode responses). Yang et al.
    2019 (1902.08129): by π/(π − 1) with batch normalization (plain nets, mlp50-norm=bn). De and Smith 2020
    (2002.10444): a power of depth with shortcuts (residual nets).

    With --bn batch a gradient belongs to one batch, and norms are averaged over full batches; with --bn eval it is
    that of the mean loss over all images. Writes gradients.csv (a row a seed and layer), gradients.json (how it was
    made) and the figure.

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
