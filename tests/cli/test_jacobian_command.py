"""`gradlab jacobian`: its output and its files."""

from pathlib import Path

from typer.testing import CliRunner

from gradlab.cli import app


def test_prints_the_answer_and_writes_its_files(tmp_path: Path) -> None:
    small = ["--images", "1", "--seeds", "1", "--probes", "1", "--steps", "5", "--format", "png"]
    arguments = ["--model", "mlp3-norm=none@init", "--part", "body", "--data", "noise", *small]
    run = CliRunner().invoke(app, ["jacobian", *arguments, "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert "theory predicts 1" in run.output
    assert {path.name for path in tmp_path.iterdir()} == {"jacobian.csv", "jacobian.json", "jacobian.png"}
