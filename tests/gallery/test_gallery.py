"""The gallery: every figure at toy size, the commands of the figures, and the committed figures."""

import hashlib
import inspect
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from forked_command import DOTS
from typer.testing import CliRunner

import gradlab as gl
from gradlab.cli import app
from gradlab.errors import GradlabError
from gradlab.experiments.architectures import architectures
from gradlab.gallery import FIGURES, Figure, NotAtHand, find_figures, readme, render

COMMITTED = Path(__file__).parents[2] / "figures"
by_name = pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
PRINTED = ("he2015-table1", "balduzzi2017-fig2")
"""The figures that are made for print as well; all others are in the thorough tests."""


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `runs` contains short runs of three small nets with recorded statistics."""
    folder = tmp_path_factory.mktemp("trained")
    draw = np.random.default_rng(0)
    parts: dict[str, Any] = {
        f"x_{part}": draw.integers(0, 256, (32, 32, 32, 3), dtype=np.uint8) for part in ("train", "test")
    }
    np.savez(folder / "toy.npz", **parts, y_train=np.arange(32) % 10, y_test=np.arange(32) % 10)
    recipe = gl.Recipe(iterations=4, batch_size=16)
    for name in ("plain8", "resnet8", "resnet8-preact"):
        gl.train(
            name,
            str(folder / "toy.npz"),
            recipe=recipe,
            out=folder / "runs" / name,
            device="cpu",
            record=("responses", "gradients"),
            every=1,
        )
    return folder


@by_name
def test_every_figure_at_toy_size(figure: Figure, tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    # No test counts dots.
    monkeypatch.setattr(sys.modules[render.__module__], "PNG_DPI", DOTS)
    formats = ("png", "pdf") if figure.name in PRINTED else ("png",)
    _, paths = render(figure, tmp_path, toy=True, device="cpu", formats=formats)
    assert {path.name for path in paths} == {f"{figure.name}.{kind}" for kind in ("csv", "json", *formats)}
    assert len(pd.read_csv(tmp_path / f"{figure.name}.csv")) > 0
    record = json.loads((tmp_path / f"{figure.name}.json").read_text())
    assert record["toy"]
    assert record["claim"] == figure.claim
    page = readme(tmp_path)
    assert f"![{figure.title}]({figure.name}.png)" in page
    assert "at toy size" in page


@by_name
@pytest.mark.thorough
def test_every_figure_is_made_for_print(
    figure: Figure, tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    render(figure, tmp_path, toy=True, device="cpu")
    assert (tmp_path / f"{figure.name}.pdf").stat().st_size > 1000


class Called(GradlabError):
    """Raised when the command has reached the experiment."""


@by_name
def test_the_command_measures_what_the_figure_does(figure: Figure, monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    monkeypatch.chdir(runs)
    try:
        options = dict(figure.options())
    except NotAtHand:
        options = figure.small()
    calls = []

    def spy(*args: object, **kwargs: object) -> None:
        calls.append((args, kwargs))
        raise Called("called")

    signature = inspect.signature(figure.experiment)
    if figure.experiment is architectures:
        monkeypatch.setattr("gradlab.experiments.catalog.list_networks", spy)
    else:
        monkeypatch.setattr(gl, figure.experiment.__name__, spy)
    words = shlex.split(figure.command_line(options))
    assert words[0] == "gradlab"
    result = CliRunner().invoke(app, words[1:])
    assert len(calls) == 1, result.output
    args, kwargs = calls[0]
    if figure.experiment is architectures:
        assert args[0] == [options["pattern"]]
        return
    bound = signature.bind(*args, **kwargs).arguments
    expected = {name: parameter.default for name, parameter in signature.parameters.items()} | options
    # A command that only reads runs does not use the training options.
    for name in bound.keys() - {"progress", "recipe", "training"}:
        assert plain(bound[name]) == plain(expected[name]), name


def plain(value: object) -> object:
    """A value in one form, whether it is a tuple, a list, a path or a name."""
    return (
        list(map(plain, value)) if isinstance(value, list | tuple) else str(value) if isinstance(value, Path) else value
    )


def test_names_and_misspelled_names() -> None:
    assert [figure.name for figure in find_figures(["he2015-fig7", "he2015-table1", "he2015-fig7"])] == [
        "he2015-fig7",
        "he2015-table1",
    ]
    with pytest.raises(gl.UsageError, match="did you mean balduzzi2017-fig2"):
        find_figures(["balduzi2017-fig2"])


def test_the_command(gradlab_command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = gradlab_command("figures", "he2015-table1", "--out", "f", "--format", "svg")
    assert done.returncode == 0, done.stderr
    assert "The counts are those of the paper within" in done.stdout
    names = {path.name for path in (tmp_path / "f").iterdir()}
    assert names == {"he2015-table1.svg", "he2015-table1.csv", "he2015-table1.json", "README.md"}


def test_the_list_has_every_figure() -> None:
    listed = CliRunner().invoke(app, ["figures", "--list"]).output
    assert all(figure.name in listed for figure in FIGURES)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name figures"),
        (["--all", "--list"], "name figures"),
        (["he2015-fig77"], "did you mean he2015-fig7?"),
        (["he2015-fig7", "--format", "gif"], "'gif' is not one of"),
    ],
)
def test_bad_input_is_one_line(args: list[str], message: str) -> None:
    failed = CliRunner().invoke(app, ["figures", *args])
    assert failed.exit_code == 2
    assert message in failed.output
    assert failed.output.count("\n") == 1


def test_figures_without_their_data_are_named_and_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("gradlab.gallery.he2015.zoo_names", list)
    (figure,) = find_figures(["he2015-fig7"])
    assert "no trained weights are here" in str(figure.missing())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gradlab.gallery.FIGURES", (figure,))
    result = CliRunner().invoke(app, ["figures", "--all"])
    assert result.exit_code == 1
    assert "skipped he2015-fig7" in result.output


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("he2015-fig6", "no finished run"),
        ("he2015-table6", "no finished run"),
        ("he2016-table1", "of one depth and recipe"),
        ("he2016-table2", "of one depth and recipe"),
        ("he2016-fig6", "of one depth and recipe"),
        ("dynamics-56", "runs/plain56 and runs/resnet56 recorded no layers"),
    ],
)
def test_figures_of_trainings_need_runs(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (figure,) = find_figures([name])
    assert reason in str(figure.missing())


def test_finished_runs_are_found(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(runs / "runs", tmp_path / "runs")
    path = tmp_path / "runs" / "plain8" / "record.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    (tmp_path / "runs" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    (figure,) = find_figures(["he2015-table6"])
    options = figure.options()
    assert options == {"depths": (8,), "families": ("resnet",), "runs": "runs", "train_missing": False}
    assert figure.command_line(options) == "gradlab degradation --no-train --depths 8 --families resnet --runs runs"


def test_fig_1_shows_the_networks_of_the_paper() -> None:
    (figure,) = find_figures(["balduzzi2017-fig1"])
    small = {"seeds": 2, "width": 8, "points": 16, "lags": 4}
    drawing = figure.draw(figure.measure({**figure.options(), **small}, device="cpu"))
    titles = [" ".join(ax.get_title().split("\n")) for ax in drawing.axes[:5]]
    assert titles[:3] == ["ff depth 1", "ff depth 24", "resnet-beta=0.1 depth 50"]


def test_the_page_says_how_networks_were_trained(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(runs)
    (figure,) = find_figures(["he2015-table6"])
    render(figure, tmp_path, toy=True, formats=())
    page = readme(tmp_path)
    assert "| plain8 | gradlab he2015, 4 iterations, batch 16, learning rate 0.1, seed 0 | 4 | float32 |" in page


def test_bundled_weights_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradlab.gallery.he2015.zoo_names", lambda: ["plain20", "resnet1202", "resnet20"])
    (figure,) = find_figures(["he2015-fig7"])
    assert figure.options() == {"models": ("plain20@trained", "resnet20@trained")}


def test_the_page_gives_weights_with_their_errors(tmp_path: Path) -> None:
    (figure,) = find_figures(["he2015-fig7"])
    render(figure, tmp_path, toy=True, device="cpu", formats=())
    path = tmp_path / "he2015-fig7.json"
    record = json.loads(path.read_text())
    assert "test_error" not in record["networks"][0]
    record["networks"][0] |= {"weights_label": "hub", "recipe": "someone", "test_error": 8.27, "accuracy": 0.9}
    path.write_text(json.dumps(record))
    assert "| resnet8 | hub | someone | 8.27 | 10.00 | 8 of cifar10-sample |" in readme(tmp_path)


def test_multiply_adds_of_stages() -> None:
    frame = architectures("imagenet/resnet18").frame.set_index("stage")
    assert list(frame.index) == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "fc"]
    assert frame["multiply_adds"]["conv1"] == 7 * 7 * 3 * 64 * 112 * 112
    assert frame["multiply_adds"]["conv2_x"] == 4 * 3 * 3 * 64 * 64 * 56 * 56
    assert frame["multiply_adds"]["fc"] == 512 * 1000


def records() -> list[Path]:
    return sorted(COMMITTED.glob("*.json"))


@pytest.mark.parametrize("path", records(), ids=lambda path: path.stem)
def test_committed_figures_are_whole(path: Path) -> None:
    record = json.loads(path.read_text())
    assert not record["toy"]
    assert path.stem in {figure.name for figure in FIGURES}
    assert len(record["sha256"]) == 3
    for name, digest in record["sha256"].items():
        assert hashlib.sha256((COMMITTED / name).read_bytes()).hexdigest() == digest, (
            f"{name}: gradlab figures {path.stem}"
        )


def test_the_committed_page_is_that_of_the_records() -> None:
    assert (COMMITTED / "README.md").read_text() == readme(COMMITTED), "gradlab figures he2015-table1 writes it anew"
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) < 6.5e6
