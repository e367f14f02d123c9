"""`gradlab models`: the networks there are."""

from typing import Annotated

import typer

from .console import output, progress_bar

Pattern = Annotated[
    str | None,
    typer.Argument(help="Only names that match this glob; 'torchvision/*' and 'timm/*' list those packages'."),
]


def models(pattern: Pattern = None) -> None:
    """List networks with their weighted layers, parameters and multiply-adds for one image.

    Any depth 6n + 2 of resnet and plain can be built (resnet26). After the name: -B or -C for shortcuts
    with projections (resnet56-B), -width=N for the channels of the first stage (resnet20-width=32), -beta=0.1
    to scale the residual branches, -shortcut=0.5 the shortcuts, -preact for pre-activation (resnet110-preact; also
    -relu-preact, -relu-before-add and -bn-after-add), -ll for looks-linear plain nets (plain56-ll). mlp50, resmlp50
    and mlp50-ll are the fully connected nets of `gradlab shatter`, at any depth: mlp24-norm=bn-width=100.
    """
    from gradlab.experiments.catalog import list_networks
    from gradlab.results.tables import rich_table

    with progress_bar(quiet=False) as progress:
        frame, formats = list_networks(pattern, progress)
    output().print(rich_table(frame, formats))
