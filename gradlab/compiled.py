"""C sources of this package, compiled once by the machine's own compiler and kept in the user's cache folder.

Nothing needs them: without a compiler, or with `GRADLAB_NATIVE=0`, torch's own operations compute the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from platformdirs import user_cache_path

_FLAGS = ("-O3", "-shared", "-fPIC", "-Wno-psabi", "-fno-math-errno", "-fno-trapping-math")

_ABSENT = "no-compiler"
"""Name of the file that notes that the absence of a library has been said."""


def load_library(package: str, name: str, prepare: Callable[[ctypes.CDLL], bool]) -> ctypes.CDLL | None:
    """Load a library, compiling it first where that was not done before.

    Args:
        package: The package that holds the source.
        name: The name of the source, without `.c`.
        prepare: A function that declares the arguments of the library's functions, and returns whether these compute
            what they should on this machine. It raises OSError where that says that the library is broken.

    Returns:
        The library, or None where there is none, which is said once on this machine, or where it does not serve.
    """
    if os.environ.get("GRADLAB_NATIVE") == "0":
        return None
    source = (files(package) / f"{name}.c").read_text(encoding="utf-8")
    key = hashlib.sha256("\0".join((source, *_FLAGS, platform.system(), platform.machine())).encode()).hexdigest()
    folder = user_cache_path("gradlab") / "native"
    path = folder / f"{name}-{key[:16]}.so"
    try:
        if not path.exists():
            _compile(source, path)
        library = ctypes.CDLL(str(path))
        return library if prepare(library) else None
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        _say_absent(folder, error)
        return None


def _compile(source: str, path: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("there is no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        text, made = Path(folder) / "source.c", Path(folder) / "library.so"
        text.write_text(source, encoding="utf-8")
        command = [compiler, *_FLAGS, "-o", str(made), str(text), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        # In one step, so that another process finds a whole file or none.
        os.replace(made, path)


def _say_absent(folder: Path, error: Exception) -> None:
    """Say once on this machine that a library is not there."""
    noted = folder / _ABSENT
    if noted.exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        noted.touch()
    except OSError:
        # Where nothing can be kept, it is said once in every process.
        pass
    warnings.warn(
        f"gradlab uses torch's own operations, which is a little slower: its C libraries cannot be built ({error})",
        stacklevel=2,
    )
