"""Terminals, disks, signals and foreign names: exit codes and errors of one sentence."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradlab.errors import GradlabError
from gradlab.results.files import write_all, write_atomically
from gradlab.training import read_training_checkpoint

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "d.npz"
    x = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=np.arange(64) % 10, x_test=x, y_test=np.arange(64) % 10)
    return str(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
@pytest.mark.parametrize("asked", [("models", "imagenet/*"), ("--help",), ("responses", "--help")])
def test_a_full_disk_under_stdout(asked: tuple[str, ...], installed_command: Run) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = installed_command(*asked, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.strip() == "gradlab: cannot read or write standard output: No space left on device"


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe that nobody reads, as that to `head` when it has its lines."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("asked", [("--version",), ("responses", "--help"), ("models", "resnet20")])
def test_output_that_nobody_reads_is_no_failure(asked: tuple[str, ...], unread: int, installed_command: Run) -> None:
    done = installed_command(*asked, capture_output=False, stdout=unread, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")


def test_work_that_stops_as_nobody_reads_its_notes_is_a_failure(unread: int, data: str, installed_command: Run) -> None:
    options = ["--iterations", "2", "--batch-size", "16", "--device", "cpu", "--data", data, "--out", "run"]
    done = installed_command("train", "resnet8", *options, capture_output=False, stdout=subprocess.PIPE, stderr=unread)
    assert done.returncode == 1


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_closed_streams(closed: tuple[int, ...], installed_command: Run) -> None:
    done = installed_command("--version", preexec_fn=lambda: [os.close(number) for number in closed])
    assert done.returncode == 0, done.stderr


def test_the_first_of_several_processes_speaks(gradlab_command: Run) -> None:
    said = [gradlab_command("models", "plain8", env={"WORLD_SIZE": "2", "RANK": rank}) for rank in "01"]
    assert [done.returncode for done in said] == [0, 0]
    assert "plain8" in said[0].stdout
    assert not said[1].stdout + said[1].stderr


def test_processes_that_cannot_meet(gradlab_command: Run) -> None:
    done = gradlab_command("responses", "plain8@init", env={"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": ""})
    assert done.returncode == 2
    assert "WORLD_SIZE is 2, but MASTER_ADDR, MASTER_PORT is not set: start the processes by torchrun" in done.stderr


def test_a_terminal_with_few_characters(gradlab_command: Run) -> None:
    done = gradlab_command("models", "imagenet/*", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "imagenet/resnet18" in done.stdout


@pytest.mark.thorough
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_terminals_with_few_characters(encoding: str, installed_command: Run) -> None:
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = installed_command("models", "imagenet/*", env=environment, text=False)
    assert done.returncode == 0, done.stderr
    assert b"imagenet/resnet18" in done.stdout


def test_a_name_that_is_not_text(gradlab_command: Run, tmp_path: Path) -> None:
    done = gradlab_command("responses", "-m", os.fsdecode(b"resnet8@\xff\x1b[31m.pt"), errors="replace")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "does not exist" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "9" * 5000],
        ["--seed", "9" * 20],
        ["--checkpoint-every", "0"],
        ["--learning-rate", "nan"],
        ["--iterations", "9" * 30],
        ["--data", "x" * 3000 + ".npz"],
    ],
)
def test_the_answer_is_short_for_any_input(options: list[str], gradlab_command: Run) -> None:
    done = gradlab_command("train", "--model", "resnet8", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1500  # the error of the parser has a frame and a hint


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.thorough), (signal.SIGTERM, 143)]
)
def test_a_stopped_training_shows_in_the_exit_code(
    number: int, code: int, data: str, tmp_path: Path, started_command: Callable[..., Any]
) -> None:
    options = ["--iterations", "100000", "--batch-size", "16", "--checkpoint-every", "1", "--out", "run"]
    with started_command("train", "--model", "resnet8", "--data", data, "--device", "cpu", *options) as (process, text):
        assert text.readline()  # It comes when some steps are done.
        os.kill(process.pid, number)
        said = text.read()
        process.join(60)
        assert process.exitcode == code
    assert "stopped at step" in said
    step = read_training_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"]
    assert f"stopped at step {step:,} of" in said


@pytest.mark.parametrize("kind", ["link", "dead link", "pipe", "folder", "device"])
def test_only_files_are_replaced(kind: str, tmp_path: Path) -> None:
    place, target = tmp_path / "out.html", tmp_path / "target"
    if kind == "link":
        target.write_bytes(b"kept")
    if kind in ("link", "dead link"):
        place.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place = Path("/dev/null")
    before = place.lstat()
    with pytest.raises(GradlabError, match=r"is a link|is not a regular file|cannot write into"):
        write_all(place.parent, {"a.csv": b"1", place.name: b"new"}) if kind != "device" else write_atomically(
            place, b"new"
        )
    assert (place.lstat().st_mode, place.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert not (tmp_path / "a.csv").exists()
    assert kind != "link" or target.read_bytes() == b"kept"


def test_files_that_another_host_is_writing_are_not_changed(tmp_path: Path) -> None:
    theirs, old = (tmp_path / f".a.csv.{name}.part" for name in ("0123abcd.999999", "0123abcd.999998"))
    for part in (theirs, old):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    write_atomically(tmp_path / "a.csv", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [theirs.name, "a.csv"]


def test_sources_open_files_as_utf8_by_name() -> None:
    root = Path(__file__).parents[2]
    missing = []
    for part in ("gradlab/checkpoints", "gradlab/training", "cli", "gradlab/data", "gradlab/results/files.py"):
        place = root / part
        for path in [place] if place.is_file() else place.rglob("*.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                texts = any(call in line for call in (".read_text()", ".write_text(", ".open()", '.open("a")'))
                missing += [f"{path.name}:{number}"] if texts and "encoding" not in line else []
    assert not missing
