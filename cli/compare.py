"""`gradlab compare`: three questions on networks, each answered by an experiment."""

from pathlib import Path

import gradlab as gl
from gradlab.experiments.compare.request import CompareRequest

from . import options
from .saving import Saving


@options.with_options(out=Path("results/compare"))
def compare(asked: CompareRequest, saving: Saving) -> None:
    """Answer a question on networks by an experiment: is deeper always better, does the shortcut help, which block?

    At initialization networks are compared by the stream after each block, the gradient at each layer and the effective
    rank of the input gradients, over seeds; with --epochs they are then trained by one recipe for the same length.
    Blocks are compared at equal numbers of parameters or multiply-adds: the table gives the counts. A difference is
    stated at a rate of false alarms of 1 %. Writes compare.csv, compare.json (the record) and the figure.

        gradlab compare --question depth

        gradlab compare --question block --blocks resnet,densenet,vovnet --match multiply-adds

        gradlab compare --question shortcut --epochs 20 --data cifar10
    """
    with saving.progress() as progress:
        result = gl.compare(**asked.arguments(), progress=progress)
    saving.report(result)
