"""`gradlab models`: the list of networks."""

from typing import Annotated

import typer

from gradlab.experiments.text import items

from . import options
from .console import output, progress_bar

Patterns = Annotated[
    list[str] | None,
    typer.Argument(
        help="Names (resnet26-preact), or globs over names; 'torchvision/*' and 'timm/*' list those of the packages.",
        metavar="[PATTERN]...",
        show_default=False,
        callback=options.reading(items),
    ),
]


def models(patterns: Patterns = None) -> None:
    """List networks with their weighted layers, parameters and multiply-adds for one image.

    A name is a family, a depth and options, and any network that can be built may be named (resnet26-preact). The CIFAR
    nets of He et al. are resnet and plain of any depth 6n + 2, and resnet164 and resnet1001 with bottlenecks (any depth
    9n + 2 as resnet110-bottleneck). The depth of a resnet may be followed by -B or -C for shortcuts with projections,
    -preact (or -relu-preact, -relu-before-add, -bn-after-add) for another unit, -width=N for the channels of the first
    stage, -shortcut=0.5 to scale the shortcuts, -exclusive-gate=-6, -shortcut-gate=-6 or -shortcut-dropout=0.5 to
    change them otherwise, and -beta=0.1 to scale the residual branches. plain56-ll is looks-linear. highway19,
    densenet40-k12, densenet100-bc-k12 and vovnet27-slim are also CIFAR nets; imagenet/resnet50, imagenet/plain34,
    imagenet/vgg16 and imagenet/vovnet39 are for ImageNet. fasterrcnn-vgg16 and torchvision/fasterrcnn_resnet50_fpn are
    detectors, which only a glob or their names list. mlp50, resmlp50 and mlp50-ll are the fully connected nets of
    `gradlab shatter`, at any depth: mlp24-norm=bn-width=100.
    """
    from gradlab.experiments.catalog import list_networks
    from gradlab.results.tables import rich_table

    with progress_bar(quiet=False) as progress:
        frame, formats = list_networks(patterns, progress)
    output().print(rich_table(frame, formats))
