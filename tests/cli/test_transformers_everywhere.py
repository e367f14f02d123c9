"""A GPT and a ViT under every command, without a case of their own: each measures, draws and saves."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gradlab.cli import app

GPT = "gpt{depth}-width=16-heads=2-vocab=16-context=8"
VIT = "vit{depth}-width=16-heads=2-patch=16"

SMALL = ["--images", "4", "--batch-size", "4"]
TRAINING = ["--iterations", "4", "--batch-size", "4", "--preset", "adamw", "--warmup", "1", "--format", "png"]

MEASURED = {
    "responses": SMALL,
    "gradients --per-example": [*SMALL, "--seeds", "2"],
    "shatter": [*SMALL, "--points", "8", "--lags", "2", "--seeds", "2"],
    "signal": ["--images", "4"],
    "attention": ["--images", "2", "--rows", "4"],
    "lesion": ["--images", "3", "--several", "2", "--swaps", "1", "--samples", "1", "--paths", "1"],
    "jacobian": ["--images", "1", "--seeds", "1", "--probes", "1", "--steps", "4"],
}
"""Commands that measure networks at initialization, each on the data that it takes."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, which has images to train on."""
    monkeypatch.chdir(tmp_path)
    pixels, labels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8), np.arange(16) % 10
    np.savez("toy.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return tmp_path


def ran(*words: str) -> str:
    """The output of a command that ends well."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("command", MEASURED)
def test_both_are_measured_and_drawn(command: str, folder: Path) -> None:
    networks = [f"{name.format(depth=2)}@init" for name in (GPT, VIT)]
    ran(*command.split(), *networks, *MEASURED[command], "--format", "png", "--out", "out")
    assert len([*(folder / "out").glob("*.png")]) == 1
    table = next((folder / "out").glob("*.csv")).read_text()
    assert all(name in table for name in networks)


@pytest.mark.parametrize(("template", "data"), [(GPT, "tokens:markov"), (VIT, "toy.npz")], ids=["gpt", "vit"])
def test_is_trained_checked_and_drawn_along_the_training(template: str, data: str, folder: Path) -> None:
    name, trained = template.format(depth=2), ["--data", data, *TRAINING[:-2]]
    assert name in ran("models", name)
    ran("train", name, *trained, "--record", "responses,gradients", "--every", "1", "--out", "run")
    ran("dynamics", "run", "--format", "png", "--out", "dynamics")
    assert (folder / "dynamics" / "dynamics.png").exists()
    sizes = ["--depths", "1,2,3", "--seeds", "2", "--steps", "1", "--images", "2"]
    ran("coordinates", template, "--data", data, *sizes, "--format", "png", "--out", "coordinates")
    assert (folder / "coordinates" / "coordinates.png").exists()


def test_plain_and_residual_ones_are_trained_and_reported(folder: Path) -> None:
    family = GPT.replace("{depth}", "")
    families = ["--families", f"{family},{family}-shortcut=none", "--depths", "2,3"]
    said = ran("degradation", *families, "--data", "tokens:markov", *TRAINING)
    assert "ended after 4 steps, too few for a verdict" in " ".join(said.split())
    ran("report", "results/degradation", "--out", "report.html")
    assert "shortcut=none" in (folder / "report.html").read_text()


def test_no_block_of_a_comparison_is_a_transformers() -> None:
    done = CliRunner().invoke(app, ["compare", "--question", "block", "--blocks", "resnet,gpt"])
    assert done.exit_code == 2
    assert "'gpt' is none of the blocks" in done.output
    assert "gradlab degradation --families gpt,gpt-shortcut=none" in done.output
