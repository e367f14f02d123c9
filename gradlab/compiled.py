"""C sources of this package, compiled once by the machine's own compiler and kept in the user's cache folder.

Nothing needs them: without a compiler, or with `GRADLAB_NATIVE=0`, torch's own operations compute the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
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
    source = _source(package, f"{name}.c")
    key = hashlib.sha256("\0".join((source, *_FLAGS, platform.system(), platform.machine())).encode()).hexdigest()
    folder = user_cache_path("gradlab") / "native"
    stem = f"{name}-{key[:16]}"
    try:
        library = ctypes.CDLL(str(_found(folder, stem) or _compile(source, folder, stem)))
        return library if prepare(library) else None
    except (OSError, subprocess.SubprocessError, AttributeError, ValueError) as error:
        _say_absent(folder, error)
        return None


def _source(package: str, name: str) -> str:
    """Return a source with the files of its package that it includes."""
    text = (files(package) / name).read_text(encoding="utf-8")
    return re.sub(r'^#include "(.+)"$', lambda found: _source(package, found[1]), text, flags=re.MULTILINE)


def _found(folder: Path, stem: str) -> Path | None:
    """Return the library that was compiled before and is whole: loading one cut short would end the process."""
    return next((path for path in folder.glob(f"{stem}-*.so") if path.name == _name(stem, path)), None)


def _name(stem: str, library: Path) -> str:
    """Name a library by its source and by what it holds."""
    return f"{stem}-{hashlib.sha256(library.read_bytes()).hexdigest()[:16]}.so"


def _compile(source: str, folder: Path, stem: str) -> Path:
    compiler = _compiler()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        text, made = Path(place) / "source.c", Path(place) / "library.so"
        text.write_text(source, encoding="utf-8")
        command = [*compiler, *_FLAGS, "-o", str(made), str(text), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        path = folder / _name(stem, made)
        # In one step, so that another process finds a whole file or none.
        os.replace(made, path)
    return path


def _compiler() -> list[str]:
    """Return the words of the command that compiles, as `ccache gcc`."""
    for words in (shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]):
        if words and (path := shutil.which(words[0])):
            return [path, *words[1:]]
    raise FileNotFoundError("there is no C compiler")


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
