"""`gradlab signal`: its output and its files."""

from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from gradlab.cli import app


def test_prints_the_answer_and_writes_its_files(tmp_path: Path) -> None:
    arguments = ["--model", "resnet20@init,resnet20-preact@init", "--images", "8", "--blocks-table"]
    run = CliRunner().invoke(app, ["signal", *arguments, "--out", str(tmp_path), "--format", "png"])
    assert run.exit_code == 0, run.output
    assert "resnet20@init (of one seed): the variance of the stream goes from" in run.output
    assert "layer3.2" in run.output
    frame = pd.read_csv(tmp_path / "signal.csv")
    assert len(frame) == 18
    assert {path.name for path in tmp_path.iterdir()} == {"signal.csv", "signal.json", "signal.png"}
