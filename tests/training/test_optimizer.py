"""Adam, AdamW and schedules with warm-up: against updates written by hand, stopped and continued, refused."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.training import PRESETS
from gradlab.training.augmentation import EpochPlan
from gradlab.training.optimizer import make_optimizer, restore_optimizer
from gradlab.training.tokens import load_sequences

NAME = "gpt1-width=16-heads=2-vocab=16-context=8"
RECIPE = PRESETS["adamw"].changed(iterations=6, batch_size=8, warm_up=2)


def test_warm_up_and_cosine_are_in_closed_form() -> None:
    recipe = PRESETS["adamw"].changed(learning_rate=1.0, iterations=110, warm_up=10)
    rates = [recipe.learning_rate_at(step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([math.cos(math.pi * step / 200) ** 2 for step in range(100)])
    steps = recipe.changed(schedule="steps")
    assert [steps.learning_rate_at(step, 110) for step in (0, 54, 55, 82)] == pytest.approx([0.1, 1, 0.1, 0.01])
    assert recipe.changed(schedule="constant").learning_rate_at(109, 110) == 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_run_is_adam_written_by_hand(optimizer: str, tmp_path: Path) -> None:
    """Kingma and Ba's Algorithm 1; weight decay in the gradient (adam), or apart from it (adamw), of matrices alone."""
    recipe = RECIPE.changed(optimizer=optimizer)
    gl.train(NAME, "tokens:markov", recipe=recipe, out=tmp_path / "run", seed=3)
    trained = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]

    model = gl.models.create(NAME, seed=3)
    sequences, _ = load_sequences("tokens:markov", 8, 16)
    order = EpochPlan.draw(3, 0, len(sequences), 4, flip=True).order
    means = [[torch.zeros_like(p) for p in model.parameters()] for _ in range(2)]
    for step in range(6):
        chosen = order[step * 8 : step * 8 + 8]
        logits = model(sequences.tokens[chosen]).flatten(0, 1)
        loss = F.cross_entropy(logits, sequences.labels[chosen].flatten())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        rate = 1e-3 * (step + 1) / 2 if step < 2 else 1e-3 * math.cos(math.pi * (step - 2) / 8) ** 2
        with torch.no_grad():
            for p, m, v, g in zip(model.parameters(), *means, gradients, strict=True):
                decay = 0.1 * p.clone() if p.ndim > 1 else torch.zeros_like(p)
                g = g + decay if optimizer == "adam" else g
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.95).add_(0.05 * g**2)
                root = (v / (1 - 0.95 ** (step + 1))).sqrt()
                p.sub_(rate * m / (1 - 0.9 ** (step + 1)) / (root + 1e-8))
                if optimizer == "adamw":
                    p.sub_(rate * decay)
    for name, value in model.state_dict().items():
        # Keys' biases have a gradient of 0, and Adam scales its rounding error up.
        kept = [*range(16), *range(32, 48)] if name.endswith("qkv.bias") else slice(None)
        torch.testing.assert_close(trained[name][kept], value[kept], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_stopped_run_ends_with_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"recipe": RECIPE.changed(optimizer=optimizer), "test_every": 2, "device": "cpu"}
    gl.train(NAME, "tokens:markov", out=tmp_path / "whole", **asked)
    with pytest.raises(GradlabError, match="stopped at step 2 of 6"):
        gl.train(
            NAME, "tokens:markov", out=tmp_path / "cut", observe=lambda _: os.kill(os.getpid(), signal.SIGTERM), **asked
        )
    gl.train(NAME, "tokens:markov", out=tmp_path / "cut", **asked)
    whole, cut = (torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "cut"))
    assert all(torch.equal(whole["model"][name], cut["model"][name]) for name in whole["model"])
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "cut" / "metrics.csv").read_bytes()


def test_a_run_from_before_there_was_a_choice_of_optimizers_goes_on(tmp_path: Path) -> None:
    recipe = PRESETS["he2015"].changed(iterations=4, batch_size=8)
    gl.train(NAME, "tokens:markov", recipe=recipe, out=tmp_path)
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name in ("optimizer", "beta1", "beta2", "warm_up", "decayed"):
        del content["config"]["fields"][name]
    torch.save(content, tmp_path / "checkpoint.pt")
    assert gl.train(NAME, "tokens:markov", recipe=recipe, out=tmp_path).record["complete"]
    changed = recipe.changed(optimizer="adam", learning_rate=1e-3)
    with pytest.raises(UsageError, match="recipe optimizer is adam and was sgd"):
        gl.train(NAME, "tokens:markov", recipe=changed, out=tmp_path)


def test_a_continued_run_has_the_options_of_its_own_recipe() -> None:
    model = nn.Linear(2, 2)
    before, now = (make_optimizer(RECIPE.changed(weight_decay=decay), model) for decay in (0.1, 0.2))
    model(torch.ones(1, 2)).sum().backward()
    before.step()
    restore_optimizer(now, before.state_dict())
    assert [group["weight_decay"] for group in now.param_groups] == [0.2, 0.0]
    assert torch.equal(now.state[model.weight]["exp_avg"], torch.full((2, 2), 0.1))


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("he2015", {"optimizer": "adamw"}, "learning rate 0.1 of he2015 is for sgd"),
        ("he2015", {"beta2": 0.9}, "sgd has no beta2: that is an option of adam and adamw"),
        ("adamw", {"momentum": 0.9}, "adamw has no momentum: that is an option of sgd"),
        ("adamw", {"optimizer": "lion"}, "optimizer is sgd, adam or adamw, not 'lion'"),
        ("adamw", {"beta1": 1.0}, "beta1 is from 0 to below 1; got 1.0"),
        ("fast", {"warm_up": 5}, "one-cycle begins with a rise of its own"),
        ("adamw", {"schedule": "linear"}, "schedule is steps, one-cycle, cosine or constant, not 'linear'"),
    ],
)
def test_what_does_not_go_together_is_refused(preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PRESETS[preset].changed(**changes)


def test_a_warm_up_is_shorter_than_the_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a warm-up of 100 steps leaves none of 10"):
        gl.train(NAME, "tokens", recipe=PRESETS["adamw"].changed(iterations=10), out=tmp_path)
