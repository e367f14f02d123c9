"""`gradlab zoo`: the bundled trained weights."""

from typing import Annotated

import typer

from . import options
from .console import output, progress_bar

Verify = Annotated[
    bool, typer.Option("--verify", help="Measure every network's error again and compare it with the record.")
]
Data = Annotated[
    str, typer.Option(help="The data for --verify: cifar10-sample, cifar10 or cifar10-train.", metavar="DATA")
]


def zoo(
    verify: Verify = False,
    data: Data = "cifar10-sample",
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """List the bundled trained weights with their recipes and their errors on CIFAR-10.

    The errors are those of the stored files. `--verify` exits with 1 if one of them is not reproduced.

        gradlab zoo --verify
    """
    from gradlab.experiments.zoo import list_zoo, verify_zoo
    from gradlab.results.tables import rich_table

    if not verify:
        output().print(rich_table(*list_zoo()))
        return
    with progress_bar(quiet) as progress:
        frame, formats = verify_zoo(data, device, progress)
    if not quiet:
        output().print(rich_table(frame, formats))
