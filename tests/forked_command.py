"""`gradlab` in a process of its own that has its libraries already: it is forked from one that did nothing but import.

The command then begins in a tenth of the processor time that the installed one takes. What it cannot show is how the
interpreter starts and what is imported when; those tests take the fixture `installed_command`.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

STARTED = multiprocessing.get_context("forkserver")
STARTED.set_forkserver_preload(
    [
        "torch",
        "torchvision",
        "pandas",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_pdf",
        "rich.progress",
        "typer.rich_utils",
        "gradlab.cli",
        "gradlab.results.kinds",
        "gradlab.experiments.responses",
        "gradlab.experiments.gradients",
    ]
)
_OUT, _ERR = 1, 2


def _run(arguments: Sequence[str], folder: Path, environment: dict[str, str], streams: Path) -> None:
    """What the forked process does: the installed script, word for word, with its streams in files."""
    for descriptor, stream in ((_OUT, sys.stdout), (_ERR, sys.stderr)):
        file = os.open(streams / str(descriptor), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
        encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
        stream.reconfigure(encoding=encoding, errors=errors or ("strict" if descriptor == _OUT else "backslashreplace"))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["gradlab", *arguments]
    from gradlab.cli import app

    sys.exit(app())


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
