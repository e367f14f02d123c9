import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import pytest

ROOT = Path(__file__).parent.parent
CHECKPOINTS = Path(os.environ.get("GRADLAB_CHECKPOINTS", ROOT.parent / "shared" / "checkpoints"))


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") != "no":
        return  # This process deals the tests to others, which load what they need.
    # Whatever is imported and collected stays: the collector need not look through it while the tests run.
    gc.disable()
    # Inductor would start processes for Triton, which no test here compiles for, and each of them imports torch.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import torch
    from devices.accelerator import SUPPORTED, accelerator

    torch.set_num_threads(1)
    if SUPPORTED:
        # Autograd counts the devices at the first backward pass of a process, whichever test makes it.
        with accelerator():
            torch.ones((), requires_grad=True).backward()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(5000)
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # Libraries complain of what is still there when a process ends.


@pytest.fixture(scope="session", autouse=True)
def _coarse_images() -> Iterator[None]:
    """PNGs of few dots, but for those of the installed command: no test here counts dots."""
    from forked_command import DOTS

    from gradlab.plots import style

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style._OTHER_SETTINGS, "savefig.dpi", DOTS)
        yield


@pytest.fixture
def checkpoint() -> Callable[[str], Path]:
    """Trained weights of other projects, where they are at hand."""

    def find(name: str) -> Path:
        path = CHECKPOINTS / name
        if not path.exists():
            pytest.skip(f"{name} is not at hand")
        return path

    return find


@pytest.fixture
def gradlab_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in an empty folder, in a process forked from one that has imported what it needs."""
    from forked_command import run_forked

    def run(*args: str, env: dict[str, str] | None = None, errors: str = "strict") -> subprocess.CompletedProcess[str]:
        return run_forked(args, tmp_path, _environment(env), errors)

    return run


@pytest.fixture
def started_command(tmp_path: Path) -> Callable[..., AbstractContextManager[tuple[BaseProcess, TextIO]]]:
    """Starts the command in an empty folder, in such a process: for what happens to it while it runs."""
    from forked_command import started

    return lambda *args: started(args, tmp_path, _environment(None))


@pytest.fixture
def installed_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the installed command in an empty folder, as a terminal does."""
    command = shutil.which("gradlab", path=str(Path(sys.executable).parent)) or shutil.which("gradlab")
    assert command, "the command is not installed"

    def run(*args: str, env: dict[str, str] | None = None, **kwargs: object) -> subprocess.CompletedProcess[str]:
        options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300, **kwargs}
        return subprocess.run([command, *args], env=_environment(env), check=False, **options)

    return run


def _environment(changes: dict[str, str] | None) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **(changes or {})}
