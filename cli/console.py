"""What every command shares: errors in one line, a progress bar when it takes long, lists of options."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from gradlab.errors import GradlabError, UsageError

PROGRESS_AFTER_SECONDS = 2.0


class Commands(TyperGroup):
    """Prints gradlab's errors as one line: exit code 2 for a request that cannot be meant, 1 for a failure."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except GradlabError as error:
            message = " ".join(str(error).split())
            typer.echo(f"gradlab: {message}", err=True)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
        except KeyboardInterrupt:
            typer.echo("gradlab: stopped; nothing was written by half", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader of our output has gone, as `| head` does; that is no failure.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


def output() -> Console:
    """The console for results, on stdout; wide where no terminal sets a width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def notes() -> Console:
    """The console for what is no result, on stderr."""
    return Console(stderr=True, highlight=False)


def split(values: list[str] | None) -> list[str]:
    """The items of a list option: comma-separated, repeated, or both."""
    return [item.strip() for value in values or [] for item in value.split(",") if item.strip()]


def one_of(option: str, given: list[str], choices: tuple[str, ...]) -> list[str]:
    """The given items, each held against the choices."""
    for item in given:
        if item not in choices:
            raise UsageError(f"{option} takes {', '.join(choices)}, not {item!r}")
    return list(dict.fromkeys(given))


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on stderr, once the work has taken two seconds; none where stderr is no terminal."""
    console = notes()
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    started = time.monotonic()
    tasks: dict[str, Any] = {}

    def update(label: str, done: int, total: int) -> None:
        if label not in tasks:
            tasks[label] = bar.add_task(label, total=total)
        bar.update(tasks[label], completed=done)
        if not bar.live.is_started and time.monotonic() - started > PROGRESS_AFTER_SECONDS:
            bar.start()

    try:
        yield update
    finally:
        bar.stop()
