"""The page on contributing: each addition works in a copy of the package, and touches as few files as the page says."""

import os
import re
import shutil
import subprocess
import sys
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


def applied(heading: str, folder: Path) -> tuple[list[str], dict[str, int]]:
    """Apply the blocks under a heading to a copy: the new files that say something, and lines added by file."""
    shutil.copytree(ROOT / "gradlab", folder / "gradlab", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copytree(ROOT / "cli", folder / "cli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
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
    # As the wheel has it.
    shutil.move(folder / "cli", folder / "gradlab" / "cli")
    return new, lines


def run(folder: Path, *arguments: str) -> str:
    """Run the command of the copy."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "120"}
    code = (
        "import sys, gradlab; assert gradlab.__file__.startswith(sys.argv.pop(1)); from gradlab.cli import app; app()"
    )
    command = [sys.executable, "-c", code, str(folder), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_measurement_is_four_files_and_five_lines(tmp_path: Path) -> None:
    new, lines = applied("A measurement", tmp_path)
    assert len(new) == 4
    assert sum(lines.values()) == 5
    said = run(tmp_path, "norms", "plain8@init", "resnet8@init")
    assert "The largest norm is" in said
    assert {path.name for path in (tmp_path / "results" / "norms").iterdir()} == {
        "norms.csv", "norms.json", "norms.png", "norms.pdf"
    }  # fmt: skip
    assert "network_kind" in (tmp_path / "results" / "norms" / "norms.csv").read_text()
    assert "gradlab report" in run(tmp_path, "report", "--help")
    run(tmp_path, "report", "results/norms")


@pytest.mark.slow
def test_a_family_is_a_file_and_an_entry(tmp_path: Path) -> None:
    new, lines = applied("A family of networks", tmp_path)
    assert (len(new), list(lines)) == (1, ["gradlab/models/families.py"])
    listed = run(tmp_path, "models", "pyramid12-step=4")
    assert "pyramid12-step=4" in listed
    said = run(tmp_path, "responses", "--model", "pyramid8@init", "--images", "4", "--format", "png")
    assert "pyramid8" in said


@pytest.mark.slow
def test_a_data_set_is_an_entry_and_a_loader(tmp_path: Path) -> None:
    new, lines = applied("A data set", tmp_path)
    assert new == []
    assert lines == {"gradlab/data/datasets.py": 1, "gradlab/data/images.py": 0}
    assert "stripes" in run(tmp_path, "responses", "--help")
    run(tmp_path, "responses", "--model", "plain8@init", "--data", "stripes", "--images", "4", "--format", "png")


@pytest.mark.slow
def test_a_column_is_a_line(tmp_path: Path) -> None:
    new, lines = applied("A column", tmp_path)
    assert (new, sum(lines.values())) == ([], 1)
    run(tmp_path, "responses", "--model", "plain8@init", "--images", "4", "--format", "png")
    header = (tmp_path / "results" / "responses" / "responses.csv").read_text().partition("\n")[0]
    assert "second_moment" in header
