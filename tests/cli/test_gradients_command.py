"""`gradlab gradients` as a user types it."""

import json

import pandas as pd
import pytest

CONTRACT = [
    "network", "seed", "layer", "index", "kind", "numel", "weight_norm", "grad_norm", "grad_rms", "relative",
    "response_grad_rms",
]  # fmt: skip
SMALL = ["--images", "4", "--batch-size", "4", "--seeds", "2"]


def test_writes_the_documented_files(gradlab_command, tmp_path):
    done = gradlab_command("gradients", "--model", "plain8,resnet8", "--weights", "init", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "At 8 layers (init) the plain net's gradient" in done.stdout
    # Among 8 layers only one pair has the same shape, which does not allow a fit to compare with theory.
    assert "Yang et al. 2019" not in done.stdout
    folder = tmp_path / "results" / "gradients"
    assert {path.name for path in folder.iterdir()} == {f"gradients.{kind}" for kind in ("csv", "json", "png", "pdf")}
    frame = pd.read_csv(folder / "gradients.csv")
    assert list(frame)[: len(CONTRACT)] == CONTRACT
    assert frame["seed"].drop_duplicates().tolist() == [0, 1]
    record = json.loads((folder / "gradients.json").read_text())
    assert record["command"].startswith("gradlab gradients --model plain8,resnet8")
    assert record["options"]["seeds"] == 2


def test_responses_and_single_images(gradlab_command, tmp_path):
    done = gradlab_command(
        "gradients", "--model", "plain8@init", *SMALL, "--mode", "responses", "--per-example", "--table", "csv",
        "--layers-table", "--out", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "noise scale" in done.stdout
    examples = pd.read_csv(tmp_path / "out" / "gradients-examples.csv")
    assert list(examples) == ["network", "seed", "example", "loss", "layer", "norm"]
    assert len(examples) == 2 * 4 * 9


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "plain8@init", "--bn", "train"], "'train' is not one of 'eval', 'batch'"),
        (["--model", "plain8@init", "--dtype", "bfloat16"], "'bfloat16' is not one of 'float32', 'float64'"),
        (["--model", "plain8@init", "--data", "noise"], "--loss sum"),
        (["--model", "plain8@init", "--per-example", "--bn", "batch"], "couple the examples"),
    ],
)
def test_bad_input_is_one_line(gradlab_command, args, message):
    done = gradlab_command("gradients", *SMALL, *args)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
