"""`gradlab attention`: entropy and largest logit by head."""

from pathlib import Path

import gradlab as gl
from gradlab.experiments.attention.request import AttentionRequest

from . import options
from .saving import Saving


@options.with_options(out=Path("results/attention"))
def attention(asked: AttentionRequest, saving: Saving) -> None:
    """Measure entropy and largest logit of attention by head and layer.

    Attention is found while the network runs, fused or not, without changing its kernel; the statistics are computed
    from queries and keys with the same mask and scale, for a sample of rows. Writes attention.csv (one row per head),
    attention.json (the record) and the figure.

        gradlab attention --model vit12@init --images 8
    """
    with saving.progress() as progress:
        result = gl.attention(**asked.arguments(), progress=progress)
    saving.report(result)
