"""`gradlab shatter` as a user types it."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from gradlab.cli import app

SMALL = ["--seeds", "2", "--width", "20", "--points", "32", "--lags", "4", "--format", "png", "--device", "cpu"]


def run(*args):
    return CliRunner().invoke(app, ["shatter", *map(str, args)])


def test_writes_the_documented_files(tmp_path):
    result = run("--depths", "2,3", "--depths", 5, "--families", "ff,resnet", *SMALL, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "lag-1 ACF" in result.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "shatter.csv", "shatter.json", "shatter.png", "shatter-summary.csv", "shatter-layers.csv", "gradients.npz"
    }  # fmt: skip
    frame = pd.read_csv(tmp_path / "shatter.csv")
    assert list(dict.fromkeys(frame["depth"])) == [2, 3, 5]


def test_a_printed_table_does_not_change_the_summary(tmp_path):
    result = run("--depths", 2, *SMALL, "--table", "csv", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "statistic" in (tmp_path / "shatter-summary.csv").read_text().splitlines()[0]
    assert (tmp_path / "shatter-table.csv").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--depths", "0"], "depths must be from 1 to 10,000; got 0"),
        (["--depths", "x"], "'x' is not one of the whole numbers"),
        (["--depths", "2", "--lags", "99"], "lags 0 to 31"),
        (["--depths", "2", "--range", "2"], "'2' is not FROM:TO"),
        (["--depths", "2", "--families", "vgg"], "unknown family"),
        (["--depths", "2", "--figure", "pie"], "'--figure': 'pie' is not one of 'acf', 'signals'"),
        (["--width", "1000000000"], "width must be from 1 to 10,000"),
        (["--seeds", "1000000000"], "seeds must be from 1 to 10,000"),
        (["--depths", "9999", "--width", "9999"], "times the sum of depth and points is at most 20,000,000"),
        (["--depths", "2", "--data", "nosuch"], "--data is of image networks, and no --model names one"),
        (["--images", "200"], "--images is of image networks"),
        (["--bn", "eval"], "--bn is of image networks"),
        (["--normalize", "none"], "--normalize is of image networks"),
        (["--batch-size", "100"], "--batch-size is of image networks"),
        (["--weights", "init"], "--weights is of image networks"),
    ],
)
def test_invalid_requests_are_refused(tmp_path, args, says):
    result = run(*SMALL, *args, "--out", tmp_path)
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


def test_image_networks(gradlab_command, tmp_path):
    done = gradlab_command(
        "shatter",
        "--model",
        "plain8,resnet8",
        "--weights",
        "init",
        "--images",
        "8",
        "--batch-size",
        "4",
        "--seeds",
        "2",
        "--points",
        "16",
        "--lags",
        "4",
        "--out",
        "out",
    )
    assert done.returncode == 0, done.stderr
    assert "Correlation of input gradients" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"shatter.csv", "shatter-summary.csv", "shatter.json", "shatter.png", "shatter.pdf"}
    header = (tmp_path / "out" / "shatter.csv").read_text().splitlines()[0]
    assert header.startswith("network,norm,depth,lag,acf,acf_sem,acf_pooled,n_constant,seeds")
    header = (tmp_path / "out" / "shatter-summary.csv").read_text().splitlines()[0]
    assert header.startswith("network,norm,depth,statistic,")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        *[
            (["--model", "plain8@init", option, value], f"{option} is of random nets, and --model names image networks")
            for option, value in [
                ("--depths", "8"),
                ("--range", "3:1"),
                ("--width", "200"),
                ("--init", "he"),
                ("--families", "ff"),
                ("--figure", "acf"),
            ]
        ],
        (["--model", "plain8@init", "--bn", "train"], "'train' is not one of 'eval', 'batch'"),
        (["--model", "plain8@init", "--images", "3", "--batch-size", "4"], "do not fill a batch"),
    ],
)
def test_image_networks_bad_input(gradlab_command, args, message):
    done = gradlab_command("shatter", *args)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
