"""`gradlab`, or a module, in a process that has its libraries already: it is forked from one that did but import.

The command then begins in a tenth of the processor time that the installed one takes. What it cannot show is how the
interpreter starts and what is imported when; those tests take the fixture `installed_command`.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import torch

STARTED = multiprocessing.get_context("forkserver")
STARTED.set_forkserver_preload(
    [
        "torch",
        "torchvision",
        "pandas",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_pdf",
        "seaborn",
        "rich.progress",
        "typer.rich_utils",
        "gradlab.cli",
        "gradlab.cli.gradients",
        "gradlab.cli.responses",
        "gradlab.cli.shatter",
        "gradlab.results.kinds",
        "gradlab.training",
        "gradlab.experiments.responses",
        "gradlab.experiments.gradients",
        "gradlab.experiments.subject",
        "gradlab.probes.responses",
        "gradlab.plots.layers",
        "gradlab.plots.marks",
    ]
)
_OUT, _ERR = 1, 2

DOTS = 60
"""The resolution of PNGs, whose dots no test counts; that of the theme takes longer than all else in a figure."""


def _become(folder: Path, environment: dict[str, str], streams: Path) -> None:
    """Take a folder, an environment, and files as standard output and error, as a process does that is started."""
    for descriptor, name in ((_OUT, "stdout"), (_ERR, "stderr")):
        file = os.open(streams / str(descriptor), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
        encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
        errors = errors or ("strict" if descriptor == _OUT else "backslashreplace")
        setattr(sys, name, os.fdopen(descriptor, "w", buffering=1, encoding=encoding, errors=errors, closefd=False))
    os.environ.clear()
    os.environ.update(environment)
    # Torch has read how many threads it may use when it was imported, before the fork.
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    os.chdir(folder)


def _run(arguments: Sequence[str], folder: Path, environment: dict[str, str], streams: Path) -> None:
    """What the forked process does: the installed script, word for word, with PNGs of few dots."""
    _become(folder, environment, streams)
    sys.argv = ["gradlab", *arguments]
    from gradlab.cli import app
    from gradlab.plots import style

    style._OTHER_SETTINGS["savefig.dpi"] = DOTS

    sys.exit(app())


def _run_module(name: str, arguments: Sequence[str], environment: dict[str, str], streams: Path) -> None:
    _become(streams, environment, streams)
    sys.argv = [name, *arguments]
    run = runpy.run_path if name.endswith(".py") else runpy.run_module
    run(name, run_name="__main__")


def environments_of_ranks(ranks: int) -> list[dict[str, str]]:
    """What torchrun has in the environment of each process that it starts."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def run_modules(name: str, arguments: Sequence[Sequence[str]], environments: Sequence[dict[str, str]]) -> list[str]:
    """Run a module as several scripts at once, each in an empty folder, and wait until all have ended well.

    Args:
        name: What is to be run, as `python -m` takes it, or the path of a script.
        arguments: Those of each process.
        environments: What each process has in its environment beside what this one has.

    Returns:
        What each has printed.
    """
    with TemporaryDirectory() as folder:
        places = [Path(folder) / str(number) for number in range(len(arguments))]
        processes = []
        for own, more, place in zip(arguments, environments, places, strict=True):
            place.mkdir()
            processes.append(STARTED.Process(target=_run_module, args=(name, own, {**os.environ, **more}, place)))
            processes[-1].start()
        try:
            for process, place in zip(processes, places, strict=True):
                process.join(560)
                assert process.exitcode is not None, f"{name} is still running"
                assert process.exitcode == 0, (place / str(_ERR)).read_text()[-3000:]
            return [(place / str(_OUT)).read_text() for place in places]
        finally:
            for process in processes:
                process.kill()


def run_forked(
    arguments: Sequence[str], folder: Path, environment: dict[str, str], errors: str = "strict"
) -> subprocess.CompletedProcess[str]:
    """Run the command and wait for it, as `subprocess.run` does.

    Args:
        arguments: Those after `gradlab`.
        folder: Where it runs.
        environment: All of its variables.
        errors: How output that is not UTF-8 is read.
    """
    with TemporaryDirectory() as streams:
        process = STARTED.Process(target=_run, args=(list(arguments), folder, environment, Path(streams)))
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(["gradlab", *arguments], 300)
        assert process.exitcode is not None
        out, err = (
            (Path(streams) / str(descriptor)).read_text(encoding="utf-8", errors=errors) for descriptor in (_OUT, _ERR)
        )
    return subprocess.CompletedProcess(["gradlab", *arguments], process.exitcode, out, err)


@contextmanager
def started(
    arguments: Sequence[str], folder: Path, environment: dict[str, str]
) -> Iterator[tuple[BaseProcess, TextIO]]:
    """Start the command and let it run: its process, and what it writes as standard error while it does.

    Args:
        arguments: Those after `gradlab`.
        folder: Where it runs.
        environment: All of its variables.
    """
    with TemporaryDirectory() as streams:
        pipe = Path(streams) / str(_ERR)
        os.mkfifo(pipe)
        process = STARTED.Process(target=_run, args=(list(arguments), folder, environment, Path(streams)))
        process.start()
        try:
            with pipe.open(encoding="utf-8") as said:
                yield process, said
        finally:
            process.kill()
            process.join()
