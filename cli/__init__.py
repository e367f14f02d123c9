"""The command `gradlab`: it parses, calls the library, prints."""

from typing import Annotated

import typer

from .console import Commands
from .degradation import degradation
from .dynamics import dynamics
from .figures import figures
from .gradients import gradients
from .html_report import html_report
from .models import models
from .responses import responses
from .shatter import shatter
from .signal import signal
from .train import train
from .zoo import zoo

app = typer.Typer(
    name="gradlab",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"gradlab {version('gradlab-torch')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Gradient dynamics of deep networks, exactly as the papers define them.

    A network is NAME[@WEIGHTS]: resnet56@init, resnet20@hub, plain20@checkpoint.pth, torchvision/resnet50@hub,
    my_package.my_module:build. `gradlab models` lists the names.
    """


app.command()(responses)
app.command()(gradients)
app.command()(shatter)
app.command()(signal)
app.command()(train)
app.command()(figures)
app.command()(dynamics)
app.command()(degradation)
app.command()(models)
app.command()(zoo)
app.command("report")(html_report)
