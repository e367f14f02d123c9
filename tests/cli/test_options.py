"""Options made from requests: their help, the text they accept, and their errors."""

from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

import gradlab as gl
from gradlab.cli import app
from gradlab.cli.options import FigureFormat, TableFormat
from gradlab.cli.shatter import FigureName
from gradlab.data.datasets import DATA_SETS
from gradlab.errors import UsageError
from gradlab.results.drawing import FIGURE_FORMATS
from gradlab.results.shatter.result import FIGURES
from gradlab.results.tables import TABLE_FORMATS

WIDE = {"COLUMNS": "300", "TERM": "dumb"}


def run(*args):
    return CliRunner().invoke(app, args, env=WIDE)


@pytest.mark.parametrize(
    ("kind", "known"),
    [(FigureFormat, FIGURE_FORMATS), (TableFormat, TABLE_FORMATS), (FigureName, FIGURES)],
)
def test_choices_are_those_of_the_library(kind, known):
    assert get_args(kind) == tuple(known)


@pytest.mark.parametrize("command", ["responses", "gradients", "shatter"])
def test_help_lists_every_data_set(command):
    text = " ".join(run(command, "--help").output.split())
    assert all(entry.form in text for entry in DATA_SETS)


def test_given_options_reach_the_library(monkeypatch, tmp_path):
    calls = []

    def spy(depths, families, **options):
        calls.append({"depths": depths, "families": families, **options})
        raise gl.GradlabError("enough")

    monkeypatch.setattr(gl, "shatter", spy, raising=False)
    result = run(
        "shatter", "--depths", "2,3", "--depths", "5", "--range", "-1:3", "--seeds", "2", "--out", str(tmp_path)
    )
    assert result.exit_code == 1, result.output
    (asked,) = calls
    assert (list(asked["depths"]), asked["interval"], asked["seeds"], asked["width"]) == (
        [2, 3, 5],
        (-1.0, 3.0),
        2,
        200,
    )
    assert tuple(asked["families"]) == ("ff", "resnet", "resnet-beta=0.1", "ll")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["responses"], "name at least one network"),
        (["responses", "--model", "resnet8", "--images", "few"], "'--images'"),
        (["responses", "--model", "resnet8", "--nosuch"], "No such option: --nosuch"),
        (["responses", "--model", "resnet8", "--bn", "train"], "for '--bn': 'train' is not one of 'eval', 'batch'"),
        (["shatter", "--depths", ","], "',' names nothing"),
        (["nosuch"], "No such command 'nosuch'"),
        (["responses", "--model", "resnet8", "--table", "html"], "'html' is not one of 'csv', 'latex', 'markdown'"),
        (["dynamics", "runs", "--statistic", "loss"], "'loss' is not one of 'grad_norm', 'response_std'"),
    ],
)
def test_parsing_errors_are_one_line(args, says):
    result = run(*args)
    assert result.exit_code == 2
    assert result.output.startswith("gradlab: ")
    assert says in result.output
    assert result.output.strip().count("\n") == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["resnet8@init", "plain8@init"],
        ["resnet8@init,plain8@init"],
        ["resnet8@init", "--model", "plain8@init"],
        ["--model", "resnet8@init,plain8@init"],
    ],
)
@pytest.mark.parametrize("command", ["responses", "gradients", "shatter"])
def test_networks_are_named_with_the_option_or_without_it(
    command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, object] = {}

    def measure(models: object, **more: object) -> None:
        asked["models"] = models
        raise UsageError("measured")

    monkeypatch.setattr(gl, "input_gradients" if command == "shatter" else command, measure, raising=False)
    result = CliRunner().invoke(app, [command, *arguments, "--out", str(tmp_path)])
    assert "measured" in result.output
    assert asked["models"] == ["resnet8@init", "plain8@init"]


@pytest.mark.parametrize("command", ["responses", "gradients"])
def test_no_network_is_refused_in_one_sentence(command: str) -> None:
    result = CliRunner().invoke(app, [command])
    assert result.exit_code == 2
    assert f"name at least one network, such as gradlab {command} resnet20" in result.output


def test_a_command_of_one_network_says_so() -> None:
    result = run("train", "plain8,resnet8")
    assert result.exit_code == 2
    assert "gradlab train takes one network at a time, not plain8,resnet8" in result.output


def test_figures_of_studies_that_are_left_out_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    result = run("lesion", "nosuch", "--studies", "several", "--figure", "paths", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "the figure paths shows the study paths, which is not among --studies" in result.output
    assert not (tmp_path / "out").exists()


def test_an_option_that_no_command_has_is_refused_in_one_sentence() -> None:
    result = run("--nosuch")
    assert result.exit_code == 2
    assert result.output == "gradlab: No such option: --nosuch\n"
    assert "Usage: gradlab [OPTIONS] COMMAND" in run().output


def test_beside_a_table_the_coverage_is_told(tmp_path: Path) -> None:
    asked = ("responses", "resnet8-width=4@init", "--images", "2", "--format", "svg", "--out", str(tmp_path))
    result = run(*asked, "--table", "csv")
    assert result.exit_code == 0
    assert result.output.startswith("network,weights,")
    assert "measured 7 of 8 weight layers" in result.output
