"""The terminal output that all commands share: errors in one line, and progress bars for long work."""

import gc
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from gradlab.errors import GradlabError, UsageError, one_line
from gradlab.results.readable import READABLE

from .processes import is_first, where_it_runs

PROGRESS_AFTER_SECONDS = 2.0
PARSERS_NOISE = (" (env var: 'None')", "Value error, ")
"""Texts that some versions of typer add to their errors."""


class Commands(TyperGroup):
    """Prints gradlab's errors in one line and exits with 2 for invalid arguments, or 1 for a failure."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; characters that the terminal cannot show are replaced by similar ones."""
        _replace_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=READABLE)
        young, middle, old = gc.get_threshold()
        # Searching all objects for garbage over and over takes a fifth of the time of imports, and finds none.
        gc.set_threshold(young, middle, 10 * old)
        try:
            return super().main(*args, **options)
        finally:
            gc.set_threshold(young, middle, old)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the command line, and print the help if it asks for it."""
        with _output_may_fail(), _one_sentence():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _output_may_fail(), _one_sentence():
                return super().invoke(ctx)
        except GradlabError as error:
            if not getattr(error, "is_told", False):
                _say(" ".join(str(error).split()))
            raise typer.Exit(_code(error)) from None
        except KeyboardInterrupt:
            if is_first():
                _say("stopped; no file was left incomplete")
            raise typer.Exit(130) from None
        except MemoryError:
            _say("there is not enough memory: use fewer images per batch, or a smaller network")
            raise typer.Exit(1) from None


@contextmanager
def _one_sentence() -> Iterator[None]:
    """A context that ends the command in one sentence for an error of the parser, which repeats arguments at length."""
    try:
        yield
    except Exception as error:
        # The help, which stands in for an empty command line, is no error.
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")) or "Help" in type(error).__name__:
            raise
        message = error.format_message()
        for noise in PARSERS_NOISE:
            message = message.replace(noise, "")
        if is_first():
            _say(one_line(message))
        raise typer.Exit(error.exit_code) from None


@contextmanager
def _output_may_fail() -> Iterator[None]:
    """A context that ends the command in one sentence if its output, or a file, cannot be written."""
    try:
        yield
        # A full disk causes an error only when the output is flushed.
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output has closed the pipe, as `| head` does, which is not a failure.
        _discard_output()
        raise typer.Exit(0) from None
    except SystemExit as ended:
        # rich ends the process with 1 by itself if the pipe is closed.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        raise typer.Exit(0) from None
    except OSError as error:
        _discard_output()
        _say(one_line(f"cannot read or write {error.filename or 'standard output'}: {error.strerror or error}"))
        raise typer.Exit(1) from None


def _replace_closed_streams() -> None:
    """Discard what is written to a stream that is closed (`>&-`); otherwise a file would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _code(error: GradlabError) -> int:
    """The exit code of an error; after a signal it is the number that shells use for the signal."""
    if isinstance(number := getattr(error, "signal", None), int):
        return 128 + number
    return 2 if isinstance(error, UsageError) else 1


def _say(message: str) -> None:
    """Print an error; if it cannot be written, only the exit code shows it."""
    with suppress(OSError):
        typer.echo(f"gradlab: {where_it_runs()}{message}", err=True)


def _discard_output() -> None:
    """Discard output that is still buffered, which Python would try to write again at its exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def output() -> Console:
    """The console for results, on stdout, with a large width if there is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal or os.environ.get("COLUMNS") else Console(highlight=False, width=160)


class _Notes(Console):
    """A console for notes, of which the reader may go before the work is done."""

    def on_broken_pipe(self) -> None:
        """Stop the work as a failure; rich would end the process."""
        raise GradlabError("the reader of the notes on standard error has closed the pipe, so that the work stops")


def notes() -> Console:
    """The console for everything except results, on stderr."""
    return _Notes(stderr=True, highlight=False)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar on stderr that appears after two seconds; there is none if stderr is not a terminal."""
    console = notes()
    if quiet or not is_first() or not console.is_terminal:
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
