"""The cells of a notebook, run by IPython in a process forked from one that has imported the libraries."""

import os
from collections.abc import Sequence
from pathlib import Path

from forked_command import STARTED


def _run(cells: Sequence[str], folder: Path) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """There is none, as in a kernel."""

    os.chdir(folder)
    shell = Shell.instance()
    for cell in cells:
        shell.run_cell(cell, store_history=True).raise_error()


def run_cells(cells: Sequence[str], folder: Path) -> int | None:
    """Run cells one after another, as a kernel does; gives the exit code, 0 if none has failed."""
    process = STARTED.Process(target=_run, args=(list(cells), folder))
    process.start()
    process.join(600)
    process.kill()
    return process.exitcode
