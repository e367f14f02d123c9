"""`gradlab coordinates`: files, findings and errors."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gradlab.cli import app

NETS = """
from torch import nn, optim

def make_model(width):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, width), nn.ReLU(), nn.Linear(width, 10))
    return model, optim.Adam(model.parameters(), lr=1e-3)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_by_width.py").write_text(NETS)
    return tmp_path


def test_files_and_findings(folder: Path) -> None:
    words = "coordinates -m nets_by_width:make_model --widths 4,8,16 --seeds 2 --images 4 --steps 1 --out out"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    assert {path.name for path in (folder / "out").iterdir()} == {
        "coordinates.csv",
        "coordinates.json",
        "coordinates.pdf",
        "coordinates.png",
    }
    record = json.loads((folder / "out" / "coordinates.json").read_text())
    assert record["expected"] == {"parametrization": "mup", "optimizer": "adam", "branch": 0.5}
    assert record["networks"] == [
        {"network": "nets_by_width:make_model", "optimizer": "Adam", "data": "cifar10-sample"}
    ]


def test_depths_of_a_named_family(folder: Path) -> None:
    words = "coordinates -m plain{depth} --depths 8,14,20 --seeds 2 --images 2 --steps 1 --optimizer sgd --format png"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    assert "depth" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("coordinates -m resnet20 --widths 4,8,16", "has no width or depth"),
        ("coordinates -m nets_by_width:make_model --widths 4", "three or more widths"),
        ("coordinates -m nets_by_width:make_model --widths 4,8,16 --optimizer lion", "adam, sgd or a function"),
    ],
)
def test_invalid_requests_are_refused(folder: Path, words: str, message: str) -> None:
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 2
    assert message in done.output
