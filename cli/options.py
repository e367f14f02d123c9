"""Options that several commands have, once."""

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[str],
    typer.Option("--model", "-m", help="Networks, NAME[@WEIGHTS]; comma-separated or repeated.", metavar="LIST"),
]
Weights = Annotated[
    str | None,
    typer.Option(help="Weights of networks that name none: init, init:SEED, trained, hub.", metavar="WEIGHTS"),
]
Data = Annotated[
    str,
    typer.Option(
        help="cifar10-sample (bundled), cifar10, cifar10-train, cifar100, imagefolder:PATH, "
        "PATH.npz (PATH.npz:train), noise.",
        metavar="DATA",
    ),
]
Images = Annotated[int | None, typer.Option(help="Only the first so many images.", metavar="N")]
BatchSize = Annotated[int, typer.Option(help="Images a batch.", metavar="N")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", metavar="DEVICE")]
Seed = Annotated[int, typer.Option(help="Seed of initial weights and of noise.", metavar="N")]
Normalize = Annotated[
    list[str] | None,
    typer.Option(
        help="imagenet, cifar10, mean-image, none, or MEAN/STD as numbers; `:255` after it keeps the range 0 to 255. "
        "One for all networks or one each. Default: what the weights were trained with.",
        metavar="SPEC",
    ),
]
BatchNorm = Annotated[
    str | None,
    typer.Option(
        "--bn",
        help="eval: normalize with running statistics (default for trained weights). batch: with those of each "
        "batch (default for init).",
        metavar="MODE",
    ),
]
LayersTable = Annotated[bool, typer.Option("--layers-table", help="Print a row a layer as well.")]
Out = Annotated[Path, typer.Option(help="Folder for the files.", metavar="DIR")]
Format = Annotated[list[str], typer.Option(help="Figure formats: png, pdf, svg.", metavar="LIST")]
TableFormat = Annotated[
    list[str] | None,
    typer.Option(
        help="Print the table as csv, latex (booktabs) or markdown instead, and write it too.", metavar="LIST"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only; the files are written.")]
