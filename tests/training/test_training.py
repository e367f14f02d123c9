"""Training: the recipe's closed forms, what augmentation shows, and resuming to the bit."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gradlab as gl
from gradlab.training import PRESETS
from gradlab.training.augmentation import EpochPlan, crop_and_flip


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Noise with labels that a small net can learn by heart."""
    draw = np.random.default_rng(0)
    path = tmp_path / "toy.npz"
    np.savez(
        path,
        x_train=draw.integers(0, 256, (160, 32, 32, 3), dtype=np.uint8),
        y_train=np.arange(160) % 10,
        x_test=draw.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8),
        y_test=np.arange(40) % 10,
    )
    return path


RECIPE = PRESETS["he2015"].changed(iterations=12, batch_size=32)


def test_the_papers_learning_rate() -> None:
    recipe = PRESETS["he2015"]
    rates = {step: recipe.learning_rate_at(step, 64_000) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)}
    assert list(rates.values()) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert recipe.steps(50_000) == 64_000


def test_one_cycle_rises_for_a_quarter_and_falls_to_nothing() -> None:
    recipe = PRESETS["fast"]
    rates = [recipe.learning_rate_at(step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=0.01)
    assert int(np.argmax(rates)) in (249, 250)
    # Two straight lines: the mean of a triangle is half its height.
    assert np.mean(rates) == pytest.approx(recipe.learning_rate / 2, rel=1e-6)
    assert rates[-1] < 0.001 * recipe.learning_rate


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crops_are_those_of_a_loop(padding: int) -> None:
    images = torch.randn(9, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    plan = EpochPlan.draw(3, 1, 9, padding, flip=True)
    shown = crop_and_flip(images, padding, plan.offsets, plan.mirrored)
    for image, (row, column), mirrored, got in zip(images, plan.offsets, plan.mirrored, shown, strict=True):
        crop = F.pad(image, (padding,) * 4)[:, row : row + 8, column : column + 6]
        assert torch.equal(got, crop.flip(-1) if mirrored else crop)


def test_a_plan_shows_every_image_once_and_every_offset() -> None:
    plan = EpochPlan.draw(0, 0, 5000, 4, flip=True)
    assert torch.equal(plan.order.sort().values, torch.arange(5000))
    counts = torch.bincount(plan.offsets[:, 0] * 9 + plan.offsets[:, 1], minlength=81)
    # 81 offsets, 5,000 draws: χ² has mean 80 and standard deviation √160.
    assert abs(float(((counts - 5000 / 81) ** 2 / (5000 / 81)).sum()) - 80) < 4 * 160**0.5
    assert abs(float(plan.mirrored.float().mean()) - 0.5) < 4 * 0.5 / 5000**0.5
    again, other = EpochPlan.draw(0, 0, 5000, 4, flip=True), EpochPlan.draw(0, 1, 5000, 4, flip=True)
    assert torch.equal(plan.order, again.order)
    assert not torch.equal(plan.order, other.order)


def test_a_run_is_a_loop_written_by_hand(toy: Path, tmp_path: Path) -> None:
    recipe = RECIPE.changed(padding=0, flip=False, iterations=5, normalization="none")
    gl.train("resnet8", str(toy), recipe=recipe, out=tmp_path / "run", seed=2, device="cpu")
    trained = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]

    model = gl.models.create("resnet8", seed=2).train()
    with np.load(toy) as arrays:
        x = torch.from_numpy(arrays["x_train"]).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(arrays["y_train"])
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    order = EpochPlan.draw(2, 0, 160, 0, flip=False).order
    for step in range(5):
        chosen = order[step * 32 : step * 32 + 32]
        gradients = torch.autograd.grad(F.cross_entropy(model(x[chosen]), y[chosen]), list(model.parameters()))
        # Half and three quarters of five steps are 2 and 3.
        rate = 0.1 * 0.1 ** ((step >= 2) + (step >= 3))
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g + 1e-4 * p)
                p.sub_(rate * v)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5)


def test_killed_at_any_moment_a_run_ends_with_the_same_bits(
    gradlab_command: Callable[..., subprocess.CompletedProcess[str]],
    started_command: Callable[..., Any],
    toy: Path,
    tmp_path: Path,
) -> None:
    options = ["train", "--model", "resnet8", "--data", str(toy), "--iterations", "25", "--batch-size", "16"]
    options += ["--checkpoint-every", "3", "--device", "cpu", "--record", "responses,gradients", "--every", "4"]
    assert gradlab_command(*options, "--out", "whole").returncode == 0
    run = tmp_path / "killed"
    for lines in (1, 2):
        with started_command(*options, "--out", "killed") as (process, said):
            # A line comes every five steps.
            for _ in range(lines):
                said.readline()
            process.kill()
            process.join()
        assert 0 < torch.load(run / "checkpoint.pt", weights_only=True)["step"] < 25
    assert gradlab_command(*options, "--out", "killed").returncode == 0
    whole, killed = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(whole["model"][name], killed["model"][name]) for name in whole["model"])
    for table in ("metrics.csv", "dynamics.csv"):
        assert (tmp_path / "whole" / table).read_bytes() == (run / table).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_says_where_and_leaves_a_checkpoint(number: int, toy: Path, tmp_path: Path) -> None:
    stopped = []

    def observe(status: object) -> None:
        stopped.append(status)
        os.kill(os.getpid(), number)

    recipe = RECIPE.changed(iterations=20)
    with pytest.raises(gl.GradlabError, match="stopped at step 5 of 20") as error:
        gl.train("resnet8", str(toy), recipe=recipe, out=tmp_path / "run", device="cpu", observe=observe)
    assert error.value.signal == number  # type: ignore[attr-defined]
    assert len(stopped) == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    result = gl.train("resnet8", str(toy), recipe=recipe, out=tmp_path / "run", device="cpu")
    assert list(result.frame["step"]) == [5, 10, 15, 20]
    assert result.record["resumed"] == [{"step": 5, "changes": []}]


def test_a_diverged_run_names_the_step_and_keeps_its_last_good_checkpoint(toy: Path, tmp_path: Path) -> None:
    recipe = RECIPE.changed(iterations=60, learning_rate=1e30)
    with pytest.raises(gl.GradlabError, match=r"diverged.*step \d+"):
        gl.train("resnet8", str(toy), recipe=recipe, out=tmp_path / "run", device="cpu", checkpoint_every=1)
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert all(value.isfinite().all() for value in content["model"].values())
