"""A run goes on with the whole of its tables or not at all, and from a checkpoint of a training or not at all."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab.training import PRESETS

RECIPE = PRESETS["he2015"].changed(iterations=6, batch_size=16, normalization="none")
OPTIONS: dict[str, Any] = {"recipe": RECIPE, "device": "cpu", "record": "gradients", "every": 2, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    draw = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    arrays = {f"x_{part}": draw.integers(0, 256, (32, 32, 32, 3), dtype=np.uint8) for part in ("train", "test")}
    np.savez(path, **arrays, y_train=np.arange(32) % 10, y_test=np.arange(32) % 10)
    return str(path)


@pytest.fixture
def run(data: str, tmp_path: Path) -> Path:
    """A run that was stopped at step 2, of 6, where it had its first test."""
    folder = tmp_path / "run"
    with pytest.raises(gl.GradlabError, match="stopped at step 2"):
        gl.train("resnet8", data, out=folder, observe=lambda _: os.kill(os.getpid(), signal.SIGTERM), **OPTIONS)
    return folder


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def other(path: Path) -> None:
    path.write_bytes(b"a,b\n" + b"1,2\n" * 2000)


def cut_in_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"7" * 9)


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_in_its_place(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("table", ["metrics.csv", "dynamics.csv"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shorter, "has 40 bytes, and had .* when the checkpoint was written"),
        (Path.unlink, "is missing, and had .* when the checkpoint was written"),
        (other, "is not the table that this run wrote"),
        (cut_in_a_line, "is not the table that this run wrote"),
        (folder_in_its_place, "is not a regular file"),
        (pipe_in_its_place, "is not a regular file"),
    ],
)
def test_a_table_that_lost_rows_is_never_filled_up(
    table: str, change: Callable[[Path], None], said: str, run: Path, data: str
) -> None:
    change(run / table)
    checkpoint = (run / "checkpoint.pt").read_bytes()
    with pytest.raises(gl.UsageError, match=rf"{table} {said}"):
        gl.train("resnet8", data, out=run, **OPTIONS)
    assert (run / "checkpoint.pt").read_bytes() == checkpoint


def test_such_a_run_goes_on_in_a_new_folder(run: Path, data: str, tmp_path: Path) -> None:
    (run / "metrics.csv").unlink()
    result = gl.train("resnet8", data, out=tmp_path / "new", resume=run, **OPTIONS)
    assert result.frame["step"].tolist() == [4, 6]
    assert b"\0" not in (tmp_path / "new" / "metrics.csv").read_bytes()


@pytest.mark.parametrize("content", ["[]", "1", "null", '"text"', "{", '{"resumed": 5}', "[" * 10_000, "\udcff"])
def test_a_record_of_another_kind_is_written_anew(content: str, run: Path, data: str) -> None:
    (run / "record.json").write_bytes(content.encode(errors="surrogateescape"))
    gl.train("resnet8", data, out=run, **OPTIONS)
    assert json.loads((run / "record.json").read_text(encoding="utf-8"))["complete"]


def test_a_lock_of_another_kind(run: Path, data: str) -> None:
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")
    with pytest.raises(gl.UsageError, match=r"\.lock is not a regular file"):
        gl.train("resnet8", data, out=run, **OPTIONS)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "config of another project": (lambda c: c.update(config={"lr": 0.1}), "its config is not the description of a run"),
    "config that is a text": (lambda c: c.update(config="resnet8"), "its config is not"),
    "step that is a tensor": (lambda c: c.update(step=torch.tensor(3)), "its step is not a number of steps"),
    "step below zero": (lambda c: c.update(step=-1), "its step is not"),
    "no window": (lambda c: c.pop("window"), "its window is not"),
    "window of other columns": (lambda c: c.update(window=torch.zeros(3, 5)), "its window is not"),
    "window too long": (lambda c: c.update(window=torch.zeros(500, 2)), "is none of this training"),
    "no random state": (lambda c: c.update(random={}), "its random is not"),
    "random state of another length": (lambda c: c["random"].update(cpu=torch.zeros(3)), "is none of this training"),
    "lengths of texts": (lambda c: c.update(lengths={"metrics.csv": "12"}), "its lengths is not"),
    "negative length": (lambda c: c.update(lengths={"metrics.csv": -5}), "its lengths is not"),
    "weights of another shape": (lambda c: c["model"].update({"fc.bias": torch.zeros(3)}), "is none of this training"),
    "weights missing": (lambda c: c["model"].pop("fc.bias"), "is none of this training"),
    "model that is a list": (lambda c: c.update(model=[1]), "its model is not tensors by name"),
    "optimizer of another kind": (lambda c: c.update(optimizer={"state": {}, "param_groups": []}), "none of this"),
    "momentum that is a text": (
        lambda c: c["optimizer"]["param_groups"][0].update(momentum="0.9"),
        "its optimizer has no such momentum",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_of_no_training_of_ours(name: str, run: Path, data: str, tmp_path: Path) -> None:
    change, said = CHANGES[name]
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(gl.GradlabError, match=said) as caught:
        gl.train("resnet8", data, out=tmp_path / "new", resume=tmp_path / "other.pt", **OPTIONS)
    assert len(str(caught.value)) <= 500


def test_a_flipped_bit_in_a_checkpoint(run: Path, data: str) -> None:
    content = bytearray((run / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "checkpoint.pt").write_bytes(content)
    with pytest.raises(gl.GradlabError, match="is not what its checksum says"):
        gl.train("resnet8", data, out=run, **OPTIONS)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"iterations": 10**30}, "iterations must be from 1 to 1,000,000,000"),
        ({"epochs": 10**5000}, "a number of more than 40 digits"),
        ({"padding": 100_000}, "padding must be from 0 to 64"),
        ({"learning_rate": float("nan")}, "a learning rate is a number above 0; got nan"),
        ({"warm_up_rate": float("inf")}, "a learning rate is a number above 0; got inf"),
        ({"weight_decay": float("nan")}, "weight decay is at least 0 and finite; got nan"),
        ({"weight_decay": float("inf")}, "weight decay is at least 0 and finite; got inf"),
        ({"momentum": float("nan")}, "momentum is from 0 to below 1; got nan"),
        ({"validation": -3}, "validation must be at least 0"),
        ({"batch_size": 2.5}, "batch size must be from 2"),
    ],
)
def test_recipes_out_of_bounds(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(gl.UsageError, match=said):
        RECIPE.changed(**fields)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 10**20}, "seed must be from 0 to"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"checkpoint_every": 0}, "checkpoint every must be at least 1"),
        ({"test_every": 0}, "test every must be at least 1"),
    ],
)
def test_runs_out_of_bounds(options: dict[str, Any], said: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(gl.UsageError, match=said):
        gl.train("resnet8", data, out=tmp_path / "new", **{**OPTIONS, **options})
    assert not (tmp_path / "new").exists()
