"""The command: its output, its files and its errors for bad input."""

import csv
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradlab.models import create

Run = Callable[..., subprocess.CompletedProcess[str]]
CONTRACT = ["network", "layer", "index", "kind", "std", "mean", "count", "rank", "predicted_std"]


def test_help_and_version(installed_command: Run, gradlab_command: Run) -> None:
    assert installed_command("--version").stdout.startswith("gradlab 0.")
    assert "responses" in installed_command("--help").stdout
    text = gradlab_command("responses", "--help", env={"COLUMNS": "160"}).stdout
    for option in (
        "--model",
        "--weights",
        "--data",
        "--bn",
        "--layers",
        "--normalize",
        "--no-data",
        "--exact",
        "--out",
    ):
        assert option in text


def test_models(gradlab_command: Run) -> None:
    text = gradlab_command("models", "imagenet/*").stdout
    assert "imagenet/resnet152" in text
    assert "11,282,415,616" in text
    assert "torchvision/resnet18" in gradlab_command("models", "torchvision/resnet18").stdout
    failed = gradlab_command("models", "nothing*")
    assert (failed.returncode, failed.stderr.strip().count("\n")) == (2, 0)


def test_responses_end_to_end(gradlab_command: Run, tmp_path: Path) -> None:
    done = gradlab_command("responses", "--model", "resnet8@init,plain8@init", "--images", "20", "--layers-table")
    assert done.returncode == 0, done.stderr
    assert "Standard deviation of layer responses" in done.stdout
    assert "layer3.0.conv2" in done.stdout
    folder = tmp_path / "results" / "responses"
    assert sorted(p.name for p in folder.iterdir()) == [f"responses.{k}" for k in ("csv", "json", "pdf", "png")]
    with (folder / "responses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:9] == CONTRACT
    assert len(rows) == 14
    record = json.loads((folder / "responses.json").read_text())
    assert record["command"].startswith("gradlab responses --model resnet8@init,plain8@init")
    assert {"options", "networks", "versions", "device", "wall_seconds", "peak_memory_mib", "utc"} <= set(record)
    assert record["networks"][0]["digest"] == record["networks"][1]["digest"]
    assert {"gradlab", "torch", "python", "cuda"} <= set(record["versions"])
    assert b"/FontFile2" in (folder / "responses.pdf").read_bytes(), "the PDF embeds its TrueType font"


def test_lists_are_repeated_or_comma_separated_and_files_are_reproducible(gradlab_command: Run, tmp_path: Path) -> None:
    a = ["responses", "--model", "resnet8", "--model", "plain8", "--weights", "init:3", "--images", "10", "--out", "a"]
    b = ["responses", "--model", "resnet8@init:3,plain8@init:3", "--images", "10", "--out", "b", "--quiet"]
    assert gradlab_command(*a).returncode == 0
    quiet = gradlab_command(*b)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    for kind in ("csv", "png", "pdf"):
        name = f"responses.{kind}"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tables(gradlab_command: Run, tmp_path: Path) -> None:
    base = ["responses", "--model", "resnet8@init", "--images", "10", "--format", "svg", "--out", "t", "--table"]
    latex = gradlab_command(*base, "latex").stdout
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"accuracy (\%)"))
    assert latex == (tmp_path / "t" / "responses-summary.tex").read_text()
    rows = list(csv.DictReader(gradlab_command(*base, "csv").stdout.splitlines()))
    assert rows[0]["network"] == "resnet8"
    assert gradlab_command(*base, "markdown").stdout.startswith("| network")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_the_latex_table_compiles(gradlab_command: Run, tmp_path: Path) -> None:
    gradlab_command("responses", "--model", "resnet8@init", "--images", "5", "--table", "latex", "--out", ".")
    (tmp_path / "doc.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{responses-summary}\\end{document}"
    )
    done = subprocess.run(["pdflatex", "-interaction=batchmode", "doc"], cwd=tmp_path, check=False)
    assert done.returncode == 0


def test_no_data(gradlab_command: Run) -> None:
    done = gradlab_command("responses", "--model", "resnet8-B@init", "--no-data")
    assert done.returncode == 0, done.stderr
    assert "running statistics are still 0 and 1" in done.stdout


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("it-ran",)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of invalid files."""
    state = create("resnet8").state_dict()
    torch.save(state, tmp_path / "resnet8.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "resnet8.pth").read_bytes()[:20_000])
    (tmp_path / "text.pth").write_text("these are no weights\n")
    torch.save({"state_dict": state, "more": Exploit()}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Exploit()))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    return tmp_path


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--model", "resnt110@init"], 2, "did you mean resnet110"),
        (["--model", "resnet8"], 2, "resnet8@init"),
        (["--model", "resnet20@resnet8.pth"], 2, "holds resnet8 or plain8, not resnet20"),
        (["--model", "resnet8@short.pth"], 1, "short.pth is damaged"),
        (["--model", "resnet8@evil.pth"], 1, "is refused: reading it needs pickle"),
        (["--model", "resnet8@evil.pkl"], 1, "evil.pkl"),
        (["--model", "resnet8@text.pth"], 1, "is no checkpoint"),
        (["--model", "resnet8@missing.pth"], 2, "missing.pth does not exist"),
        (["--model", "resnet110@hub"], 1, "could not be downloaded"),
        (["--model", "resnet8@init", "--data", "cifar10"], 1, "put cifar10.npz there"),
        (["--model", "resnet8@init", "--data", "imagefolder:empty"], 1, "empty holds no images"),
        (["--model", "resnet8@init", "--images", "0"], 2, "images must be from 1"),
        (["--model", "resnet8@init", "--out", "file/inside"], 1, "cannot write into file/inside"),
        (["--model", "resnet8@init", "--layers", "conv9"], 2, "no layer of CifarNet matches 'conv9'"),
        (["--model", "resnet8@init", "--bn", "train"], 2, "for '--bn': 'train' is not one of 'eval', 'batch'"),
        (["--model", "resnet8@init", "--format", "gif"], 2, "for '--format': 'gif' is not one of 'png', 'pdf', 'svg'"),
        (["--model", "resnet8@init", "--normalize", "imagnet"], 2, "unknown normalization"),
        (["--model", "resnet8@init", "--device", "cuda:9"], 2, "no device 'cuda:9'"),
        (["--model", ","], 2, "',' names nothing"),
        (["--model", "resnet8@init", "--out", "file"], 1, "cannot write into file: it is no folder"),
    ],
)
def test_bad_input_is_one_line(args: list[str], code: int, message: str, broken: Path, gradlab_command: Run) -> None:
    offline = {
        "TORCH_HOME": str(broken / "hub"),
        "GRADLAB_DATA": str(broken / "data"),
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
    }
    done = gradlab_command("responses", *args, env=offline)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("downloading")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("gradlab: ")
    assert message in lines[0]
    assert not (broken / "it-ran").exists()


def test_nan_weights_are_reported_and_the_rest_measured(gradlab_command: Run, tmp_path: Path) -> None:
    model = create("resnet8")
    with torch.no_grad():
        model.layer2[0].conv1.weight[3, 0, 0, 0] = float("nan")
    torch.save(model.state_dict(), tmp_path / "nan.pth")
    done = gradlab_command("responses", "--model", "resnet8@nan.pth", "--images", "10", "--out", ".", "--bn", "eval")
    assert done.returncode == 0, done.stderr
    assert "layer2.0.conv1: " in done.stdout
    assert "are NaN or infinite and left out" in done.stdout
    with (tmp_path / "responses.csv").open() as file:
        stds = {row["layer"]: row["std"] for row in csv.DictReader(file)}
    assert all(float(stds[layer]) > 0 for layer in ("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1"))
    assert stds["layer2.0.conv2"] == ""


def test_an_interrupt_is_one_line_and_keeps_the_old_files(gradlab_command: Run, tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text(
        "import os, signal\nimport torch.nn as nn\n\n"
        "class Stop(nn.Conv2d):\n"
        "    def forward(self, x):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        return super().forward(x)\n\n"
        "def stop():\n    return Stop(3, 4, 3)\n"
    )
    assert gradlab_command("responses", "--model", "resnet8@init", "--images", "4").returncode == 0
    before = {p: p.read_bytes() for p in (tmp_path / "results").rglob("*.*")}
    done = gradlab_command("responses", "--model", "mynets:stop@init")
    assert (done.returncode, done.stderr.strip()) == (130, "gradlab: stopped; no file was left incomplete")
    assert {p: p.read_bytes() for p in (tmp_path / "results").rglob("*.*")} == before


def test_a_users_network_is_found_in_the_current_folder(gradlab_command: Run, tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text(
        "import torch.nn as nn\n\n"
        "def tiny():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))\n"
    )
    done = gradlab_command("responses", "--model", "mynets:tiny@init", "--images", "10")
    assert done.returncode == 0, done.stderr
    assert "mynets:tiny" in done.stdout
