"""`gradlab signal`: stream and branches block by block."""

from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl
from gradlab.experiments.signal.request import SignalRequest

from . import options
from .saving import Saving

BlocksTable = Annotated[bool, typer.Option("--blocks-table", help="Also print one row per block and branch.")]


@options.with_options(out=Path("results/signal"))
def signal(asked: SignalRequest, saving: Saving, blocks_table: BlocksTable = False) -> None:
    """Measure stream, branches and gradients block by block (Brock et al. 2021, 2101.08692).

    Blocks are found while the network runs. They are additions of a signal and a function of it, in any residual net or
    transformer, or the repeated parts of a network without such additions. Shown are the variance of the stream after
    each block and the squared means of its channels, the variance of each branch as it is added and its ratio to that
    of the stream, their cosine, and the RMS of the gradient of the loss. Writes signal.csv (one row per block and
    branch), signal.json (the record) and the figure.

        gradlab signal --model resnet56@init,resnet56-preact@init

        gradlab signal --model gpt12@init,gpt12-norm=post@init --data tokens --images 8
    """
    from gradlab.results.tables import rich_table

    with saving.progress() as progress:
        result = gl.signal(**asked.arguments(), progress=progress)
    shown = result.networks if blocks_table else []
    saving.report(result, [rich_table(result.blocks(network), result.formats, title=network) for network in shown])
