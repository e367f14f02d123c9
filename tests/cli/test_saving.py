"""Files of an earlier result that a new one in the same folder does not replace."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gradlab.cli import app
from gradlab.results.files import described_by


def run(network: str, folder: Path, *more: str) -> str:
    arguments = [
        "jacobian",
        "--model",
        f"{network}@init",
        "--data",
        "noise",
        "--images",
        "1",
        "--seeds",
        "1",
        "--out",
        str(folder),
    ]
    done = CliRunner().invoke(app, [*arguments, *more])
    assert done.exit_code == 0, done.output
    return done.output


def test_files_of_an_earlier_result_are_named(tmp_path: Path) -> None:
    assert "still holds" not in run("mlp4-width=8", tmp_path, "--format", "svg", "--table", "csv")
    (tmp_path / "notes.txt").touch()
    kept = {name: (tmp_path / name).read_bytes() for name in ("jacobian.svg", "jacobian-summary.csv")}
    said = " ".join(run("mlp3-width=8", tmp_path, "--format", "png").split())
    assert said.endswith("still holds, of an earlier result: jacobian-summary.csv, jacobian.svg")
    assert kept == {name: (tmp_path / name).read_bytes() for name in kept}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3}', '{"sha256": null}', '{"sha256": [[]]}'])
def test_a_record_that_cannot_be_read_describes_no_file(tmp_path: Path, text: str) -> None:
    assert described_by(tmp_path / "none" / "record.json") == []
    (tmp_path / "record.json").write_text(text)
    assert described_by(tmp_path / "record.json") == []
