"""`gradlab responses`: layer-response std."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

import gradlab as gl
from gradlab.errors import UsageError

from . import options
from .console import one_of, progress_bar, split
from .report import file_kinds, report

Layers = Annotated[
    str | None,
    typer.Option(
        help="Layers to measure, a glob ('layer3.*'). Default: every convolution but projections of shortcuts.",
        metavar="GLOB",
    ),
]
Exact = Annotated[bool, typer.Option("--exact", help="Centred float64 statistics: slower, right for any mean.")]
NoData = Annotated[
    bool, typer.Option("--no-data", help="Predict from batch-normalization parameters; no image is read.")
]
SameRecipe = Annotated[
    bool, typer.Option("--same-recipe", help="Compare checkpoints that do not say how they were trained.")
]


def responses(
    model: options.Models,
    weights: options.Weights = None,
    data: options.Data = "cifar10-sample",
    images: options.Images = None,
    bn: options.BatchNorm = None,
    layers: Layers = None,
    normalize: options.Normalize = None,
    no_data: NoData = False,
    exact: Exact = False,
    same_recipe: SameRecipe = False,
    layers_table: options.LayersTable = False,
    table: options.TableFormat = None,
    batch_size: options.BatchSize = 100,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: options.Out = Path("results/responses"),
    format: options.Format = ["png,pdf"],  # noqa: B006
    quiet: options.Quiet = False,
) -> None:
    """Measure the standard deviation of layer responses (He et al. 2015, §4.2, Fig. 7).

    The response of a layer is its output after batch normalization and before any other nonlinearity or
    addition; its std is taken over images, channels and positions. Writes responses.csv (a row a layer),
    responses.json (how it was made) and the figure.

        gradlab responses --model plain20,plain56,resnet20,resnet56,resnet110

        gradlab responses --model resnet20@hub,resnet56@hub --data cifar10
    """
    from gradlab.normalization import split_specs
    from gradlab.results.files import prepare_folder
    from gradlab.results.tables import rich_table

    formats, tables = file_kinds(format, table)
    models = split(model)
    if not models:
        raise UsageError("--model names no network")
    if bn is not None:
        one_of("--bn", [bn], ("eval", "batch"))
    prepare_folder(out)
    with progress_bar(quiet) as progress:
        result = gl.responses(
            models,
            data,
            weights=weights,
            images=images,
            batch_size=batch_size,
            device=device,
            seed=seed,
            bn=cast(Literal["eval", "batch"] | None, bn),
            layers=layers,
            normalize=split_specs(normalize) if normalize else None,
            exact=exact,
            no_data=no_data,
            same_recipe=same_recipe,
            progress=progress,
        )
    shown = result.networks if layers_table else []
    details = [rich_table(result.layers(network), result.formats, title=network) for network in shown]
    report(result, out, formats, tables, quiet, details)
