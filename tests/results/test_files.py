"""Files are either complete or absent, whatever happens while they are written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gradlab.errors import GradlabError
from gradlab.results.files import prepare_folder, prepared_folder, write_all, write_atomically

DYING = """
import os, signal, sys
from gradlab.results import files
folder, stop_at, calls = sys.argv[1], int(sys.argv[2]), 0
def dying(function):
    def call(*args):
        global calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return call
files.os.replace, files.os.fsync = dying(os.replace), dying(os.fsync)
files.write_all(folder, {"a.csv": b"new a" * 1000, "b.json": b"new b" * 1000, "c.png": b"new c" * 1000})
"""


# There are six places: before each of three files is safe on disk, and before each is renamed.
@pytest.mark.parametrize("stop_at", range(1, 7))
def test_a_killed_process_leaves_either_old_or_new_files(stop_at: int, tmp_path: Path) -> None:
    names = {"a.csv": "a", "b.json": "b", "c.png": "c"}
    for name, letter in names.items():
        (tmp_path / name).write_bytes(f"old {letter}".encode())
    done = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), str(stop_at)], check=False)
    assert done.returncode == -signal.SIGKILL
    renamed = max(0, stop_at - 4)
    for place, (name, letter) in enumerate(names.items()):
        expected = f"new {letter}" * 1000 if place < renamed else f"old {letter}"
        assert (tmp_path / name).read_bytes() == expected.encode()


def test_a_failure_keeps_the_old_files_without_temporary_ones_or_new_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GradlabError, match=r"cannot write into .*: No space left on device"):
        write_atomically(tmp_path / "a", b"new")
    with pytest.raises(GradlabError, match="No space left on device"):
        write_atomically(tmp_path / "x" / "y" / "a", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_folders_are_created_or_refused(tmp_path: Path) -> None:
    (path,) = write_all(tmp_path / "x" / "y", {"a": b"1"})
    assert path.read_bytes() == b"1"
    with pytest.raises(GradlabError, match="cannot write into"):
        prepare_folder(path / "under-a-file")
    with pytest.raises(GradlabError, match=r"cannot write into .*: it is no folder"):
        prepare_folder(path)


@pytest.mark.parametrize("error", [GradlabError, KeyboardInterrupt])
def test_a_folder_does_not_stay_if_the_work_for_it_fails(tmp_path: Path, error: type[BaseException]) -> None:
    def work(name: str, *files: str) -> None:
        with prepared_folder(tmp_path / name) as folder:
            for file in files:
                (folder / file).touch()
            raise error

    (tmp_path / "before").mkdir()
    for name, *files in (("a/b",), ("before/c",), ("kept/d", "file"), ("before",)):
        with pytest.raises(error):
            work(name, *files)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"before", "kept", "kept/d", "kept/d/file"}
    with prepared_folder(tmp_path / "new") as folder:
        assert folder.is_dir()
    assert folder.is_dir()
