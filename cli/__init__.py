"""The command `gradlab`, which parses arguments, calls the library and prints results."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.main import get_command

from .console import Commands
from .loading import Loaded
from .processes import by_first, shared

COMMANDS = (
    "responses",
    "gradients",
    "shatter",
    "activations",
    "signal",
    "attention",
    "jacobian",
    "lesion",
    "coordinates",
    "train",
    "figures",
    "dynamics",
    "degradation",
    "compare",
    "models",
    "zoo",
    "report",
)
"""All commands in the order of help; each is a file in this folder with a function of its name."""
SHARED = {
    "responses",
    "gradients",
    "shatter",
    "activations",
    "signal",
    "attention",
    "jacobian",
    "lesion",
    "coordinates",
    "train",
    "degradation",
    "compare",
}
"""The commands whose work is shared by the processes of torchrun; any other is run by the first process alone."""

LOOK: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": "markdown",
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def command(name: str) -> Any:
    """The command of this name, from its file."""
    run = getattr(import_module(f".{name}", __name__), name)
    alone = typer.Typer(**LOOK)
    alone.command(name)(shared(run) if name in SHARED else by_first(run))
    return get_command(alone)


class AllCommands(Commands):
    """The commands of all files, which are read as they are called."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.commands = Loaded(COMMANDS, command)


app = typer.Typer(name="gradlab", cls=AllCommands, no_args_is_help=True, **LOOK)


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
