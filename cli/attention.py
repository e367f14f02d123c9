"""`gradlab attention`: entropy and largest logit by head."""

from pathlib import Path

import gradlab as gl
from gradlab.experiments.attention.request import AttentionRequest

from . import options
from .saving import Saving


@options.with_options(out=Path("results/attention"))
def attention(asked: AttentionRequest, saving: Saving) -> None:
    """Measure entropy and largest logit of attention by head and layer.

    Attention is found while the network runs, fused or not, and its kernel stays as it is; the statistics come from
    queries and keys with the same mask and scale, for a sample of rows. Writes attention.csv (a row a head),
    attention.json (how it was made) and the figure.

        gradlab attention --model vit12@init --images 8
    """
    with saving.progress() as progress:
        result = gl.attention(**asked.arguments(), progress=progress)
    saving.report(result)
