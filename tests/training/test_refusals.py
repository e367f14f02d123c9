"""What training refuses, in one sentence, and what survives it."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab.training import PRESETS, RunFolder, load_split

RECIPE = PRESETS["he2015"].changed(iterations=4, batch_size=32)


def arrays(path: Path, *, size: int = 32, train_classes: int = 10, test_classes: int = 10, **changed: object) -> str:
    """Random images in a file."""
    draw = np.random.default_rng(0)
    content = {
        "x_train": draw.integers(0, 256, (64, size, size, 3), dtype=np.uint8),
        "y_train": np.arange(64) % train_classes,
        "x_test": draw.integers(0, 256, (20, size, size, 3), dtype=np.uint8),
        "y_test": np.arange(20) % test_classes,
    }
    np.savez(path, **{**content, **changed})
    return str(path)


def test_images_of_another_size(tmp_path: Path) -> None:
    data = arrays(tmp_path / "small.npz", size=28)
    with pytest.raises(gl.UsageError, match=r"resnet8 takes .*\(3, 32, 32\), .* these are \(3, 28, 28\)"):
        gl.train("resnet8", data, recipe=RECIPE.changed(normalization="cifar10"), out=tmp_path / "run")


def test_more_classes_in_the_test_images(tmp_path: Path) -> None:
    data = arrays(tmp_path / "classes.npz", train_classes=4)
    with pytest.raises(gl.UsageError, match="test images have class 9, training images 4 classes"):
        load_split(data, "cifar10")


def test_the_classifier_has_as_many_outputs_as_there_are_classes(tmp_path: Path) -> None:
    data = arrays(tmp_path / "four.npz", train_classes=4, test_classes=4)
    gl.train("resnet8", data, recipe=RECIPE, out=tmp_path / "run", device="cpu")
    assert gl.build(f"resnet8@{tmp_path / 'run' / 'checkpoint.pt'}").fc.out_features == 4  # type: ignore[union-attr]


def test_folder_and_device_are_checked_before_the_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(gl.GradlabError, match=r"cannot write into .*file: it is no folder"):
        gl.train("resnet8", str(tmp_path / "missing.npz"), recipe=RECIPE, out=tmp_path / "file")
    with pytest.raises(gl.UsageError, match=r"missing.npz does not exist"):
        gl.train("resnet8", str(tmp_path / "missing.npz"), recipe=RECIPE, out=tmp_path / "new" / "run")
    with pytest.raises(gl.UsageError, match="no device 'cuda:99' here"):
        gl.train(
            "resnet8", str(tmp_path / "missing.npz"), recipe=RECIPE, device="cuda:99", out=tmp_path / "new" / "run"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("data", ["noise", "imagefolder:x"])
def test_data_without_a_training_part(data: str) -> None:
    with pytest.raises(gl.UsageError, match="cannot train on"):
        load_split(data, "cifar10")


def test_the_last_images_are_held_out(tmp_path: Path) -> None:
    split = load_split(arrays(tmp_path / "a.npz"), "none", validation=10)
    assert (len(split.train), len(split.test), split.held_out) == (54, 10, True)
    assert split.test.labels.tolist() == [i % 10 for i in range(54, 64)]
    with pytest.raises(gl.UsageError, match="64 of 64 training images cannot be held out"):
        load_split(str(tmp_path / "a.npz"), "none", validation=64)


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    data = arrays(tmp_path / "a.npz")
    gl.train("resnet8", data, recipe=RECIPE, out=tmp_path / "run", device="cpu")
    with pytest.raises(gl.UsageError, match="the checkpoint holds resnet8, not plain8"):
        gl.train("plain8", data, recipe=RECIPE, out=tmp_path / "other", resume=tmp_path / "run")
    weights = tmp_path / "weights.pt"
    torch.save(gl.build("resnet8@init").state_dict(), weights)
    with pytest.raises(gl.UsageError, match="weights alone"):
        gl.train("resnet8", data, recipe=RECIPE, out=tmp_path / "other", resume=weights)


def test_another_recipe_in_the_same_folder_is_refused_and_said_where_it_is_meant(tmp_path: Path) -> None:
    data = arrays(tmp_path / "a.npz")
    gl.train("resnet8", data, recipe=RECIPE, out=tmp_path / "run", device="cpu")
    longer = RECIPE.changed(iterations=6)
    with pytest.raises(gl.UsageError, match="another run: recipe iterations is 6 and was 4"):
        gl.train("resnet8", data, recipe=longer, out=tmp_path / "run", device="cpu")
    result = gl.train("resnet8", data, recipe=longer, out=tmp_path / "run", device="cpu", resume=tmp_path / "run")
    assert result.notes == ["resnet8: the run is continued although recipe iterations is 6 and was 4"]
    assert result.frame["step"].iloc[-1] == 6


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = arrays(tmp_path / "a.npz")
    sync = os.fsync

    def full(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if "checkpoint.pt" in path and (tmp_path / "run" / "checkpoint.pt").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(gl.GradlabError, match="No space left on device"):
        gl.train("resnet8", data, recipe=RECIPE, out=tmp_path / "run", device="cpu", checkpoint_every=1)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 1
    assert not list((tmp_path / "run").glob("*.part"))


def test_two_runs_in_one_folder_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    hold = (
        "import sys, gradlab.training as t\n"
        f"with t.RunFolder({str(tmp_path)!r}):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(gl.UsageError, match="another run writes into"):
            RunFolder(tmp_path).__enter__()
        other.kill()
    with RunFolder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--preset", "slow"], 2, "no preset 'slow'"),
        (["--epochs", "1", "--iterations", "5"], 2, "epochs or iterations, not both"),
        (["--batch-size", "1"], 2, "batch size must be at least 2"),
        (["--lr", "0"], 2, "a learning rate is a number above 0"),
        (["--schedule", "linear"], 2, "schedule is steps, one-cycle, cosine or constant"),
        (["--model", "resnet8@hub"], 2, "a training begins at the network's initialization"),
        (["--data", "missing.npz"], 2, "missing.npz does not exist"),
    ],
)
def test_the_command_refuses_in_one_line(
    options: list[str], code: int, said: str, gradlab_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = gradlab_command("train", "--model", "resnet8", *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
