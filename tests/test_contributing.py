"""The page on contributing: each addition works in a copy of the package, and touches as few files as the page says."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```(python|diff) title="([^"]+)"\n(.*?)^```', re.DOTALL | re.MULTILINE)


def blocks(heading: str) -> list[tuple[str, str, str]]:
    """The blocks under a heading: language, title and text."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return BLOCK.findall(section)


def add_lines(path: Path, diff: str) -> int:
    """Add the lines with a plus sign below the line above them, and count them."""
    lines, place, added = path.read_text().splitlines(), 0, 0
    for line in diff.splitlines():
        if line.startswith("+"):
            lines.insert(place, line[1:])
            place, added = place + 1, added + 1
        else:
            place = lines.index(line[1:], 0) + 1
    path.write_text("\n".join(lines) + "\n")
    return added


def copied(folder: Path) -> Path:
    """A copy of the package, without weights, in a folder."""
    shutil.copytree(ROOT / "gradlab", folder / "gradlab", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    # As the wheel has it.
    shutil.copytree(ROOT / "cli", folder / "gradlab" / "cli", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "cli").symlink_to(folder / "gradlab" / "cli")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def add_blocks(heading: str, folder: Path) -> tuple[list[str], dict[str, int]]:
    """Apply the blocks under a heading to a copy: the new files that say something, and lines added by file."""
    new, lines = [], {}
    for language, title, text in blocks(heading):
        path = folder / title.partition(",")[0]
        if language == "diff":
            lines[title] = add_lines(path, text)
        elif path.exists():
            path.write_text(f"{path.read_text()}\n\n{text}")
            lines[str(path.relative_to(folder))] = lines.get(str(path.relative_to(folder)), 0)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            new += [title] if text.count("\n") > 1 else []
    return new, lines


RUNNING = """
import json, sys
import gradlab
from gradlab.cli import app
folder, commands = sys.argv[1:]
assert gradlab.__file__.startswith(folder)
for sys.argv in json.loads(commands):
    try:
        app()
    except SystemExit as ended:
        assert not ended.code, sys.argv
    print("\\f", end="", flush=True)
"""
"""Commands one after another in one process, each followed by a form feed."""


def run(folder: Path, *commands: str) -> list[str]:
    """Run commands of the copy, and give what each has printed."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "120"}
    command = [sys.executable, "-c", RUNNING, str(folder), json.dumps([["gradlab", *c.split()] for c in commands])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("\f")[:-1]


@dataclass
class Tried:
    """What came of the additions: the new files and the lines added by file, by heading, and what commands printed."""

    folder: Path
    added: dict[str, tuple[list[str], dict[str, int]]]
    printed: list[str]


COMMANDS = (
    "norms plain8@init resnet8@init",
    "report --help",
    "report results/norms",
    "responses --model plain8@init --images 4 --format png",
    "models pyramid12-step=4",
    "responses --model pyramid8@init --images 4 --format png --out pyramid",
    "responses --help",
    "responses --model plain8@init --data stripes --images 4 --format png --out stripes",
)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """All four additions in one copy, whose commands run in one process."""
    folder = copied(tmp_path_factory.mktemp("copy"))
    headings = ("A measurement", "A column", "A family of networks", "A data set")
    added = {heading: add_blocks(heading, folder) for heading in headings}
    return Tried(folder, added, run(folder, *COMMANDS))


def test_a_measurement_is_four_files_and_five_lines_and_a_column_one(tried: Tried) -> None:
    new, lines = tried.added["A measurement"]
    assert len(new) == 4
    assert sum(lines.values()) == 5
    column, lines = tried.added["A column"]
    assert (column, sum(lines.values())) == ([], 1)
    said, listed, *_ = tried.printed
    assert "The largest norm is" in said
    results = tried.folder / "results"
    assert {path.name for path in (results / "norms").iterdir()} == {
        "norms.csv", "norms.json", "norms.png", "norms.pdf"
    }  # fmt: skip
    assert "network_kind" in (results / "norms" / "norms.csv").read_text()
    assert "gradlab report" in listed
    header = (results / "responses" / "responses.csv").read_text().partition("\n")[0]
    assert "second_moment" in header


def test_a_family_is_a_file_and_an_entry_and_a_data_set_an_entry_and_a_loader(tried: Tried) -> None:
    new, lines = tried.added["A family of networks"]
    assert (len(new), list(lines)) == (1, ["gradlab/models/families.py"])
    new, lines = tried.added["A data set"]
    assert new == []
    assert lines == {"gradlab/data/datasets.py": 1, "gradlab/data/images.py": 0}
    listed, said, told, _ = tried.printed[4:]
    assert "pyramid12-step=4" in listed
    assert "pyramid8" in said
    assert "stripes" in told
