"""`gradlab attention`: its output and its files."""

from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from gradlab.cli import app


def test_prints_the_answer_and_writes_its_files(tmp_path: Path) -> None:
    arguments = ["--model", "vit2-width=64@init", "--images", "2", "--rows", "5", "--format", "png"]
    run = CliRunner().invoke(app, ["attention", *arguments, "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert "of the entropy of equal weights" in run.output
    assert set(pd.read_csv(tmp_path / "attention.csv")["rows"]) == {10}
    assert {path.name for path in tmp_path.iterdir()} == {"attention.csv", "attention.json", "attention.png"}
