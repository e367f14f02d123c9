"""Files that hold several things: which state dict is taken, what is said of it, and the choice by `@PATH:KEY`."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.optim.swa_utils import AveragedModel

import gradlab as gl
from gradlab.checkpoints import read_checkpoint, split_key
from gradlab.errors import GradlabError, UsageError
from gradlab.models import create


def state(seed: int = 0, name: str = "resnet8") -> dict[str, torch.Tensor]:
    return create(name, seed=seed).state_dict()


def under(prefix: str, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in values.items()}


def seed_of(model: torch.nn.Module) -> int:
    """By which of the first seeds a network's weights were drawn."""
    return next(seed for seed in range(4) if torch.equal(model.conv1.weight, state(seed)["conv1.weight"]))


WRAPPED: dict[str, tuple[Any, str | None]] = {
    "params": ({"params": state(1)}, "params"),
    "model_ema": ({"model_ema": state(1), "epoch": 3}, "model_ema"),
    "ema": ({"ema": state(1)}, "ema"),
    "averaged in ema": ({"ema": AveragedModel(create("resnet8", seed=1)).state_dict()}, "ema"),
    "one's own key": ({"weights of mine": state(1)}, "weights of mine"),
    "nested": ({"models": {"best": {"state_dict": under("net.", state(1))}}}, "models.best.state_dict"),
    "in a list": ({"models": [state(1)]}, "models.0"),
    "beside an optimizer": (
        {"model": state(1), "optimizer": {"state": {"fc.weight": {"exp": torch.ones(10, 64)}}}, "rng": torch.ones(9)},
        "model",
    ),
    "beside counters": ({"network": state(1), "step": torch.tensor(3), "best": {"loss": torch.tensor(0.1)}}, "network"),
    "flat": (state(1), None),
    "flat, compiled, parallel": (under("module._orig_mod.", state(1)), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
def test_the_only_state_dict_is_taken_without_a_word(kind: str, tmp_path: Path) -> None:
    content, key = WRAPPED[kind]
    torch.save(content, tmp_path / "w.pt")
    model = gl.build(f"resnet8@{tmp_path / 'w.pt'}")
    assert seed_of(model) == 1
    assert (model.network.weights_key, model.network.note) == (key, None)


def test_the_usual_one_of_several_is_taken_and_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"epoch": 1, "state_dict_ema": state(2), "state_dict": under("module.", state(1))}, path)
    model = gl.build(f"resnet8@{path}")
    assert seed_of(model) == 1
    assert model.network.weights_key == "state_dict"
    said = "w.pth holds state_dict, state_dict_ema; state_dict was read (resnet8@PATH:KEY chooses)"
    assert model.network.note == said
    result = gl.responses(f"resnet8@{path}", images=4)
    assert result.record["networks"][0]["weights_key"] == "state_dict"
    assert any(said in note for note in result.notes)
    chosen = gl.build(f"resnet8@{path}:state_dict_ema")
    assert seed_of(chosen) == 2
    assert (chosen.network.note, chosen.name) == (None, "resnet8@w.pth:state_dict_ema")


def test_the_one_of_several_that_fits_is_taken_and_named(tmp_path: Path) -> None:
    path = tmp_path / "gan.pt"
    torch.save({"generator": create("mlp3").state_dict(), "discriminator": state(1)}, path)
    model = gl.build(f"resnet8@{path}")
    assert seed_of(model) == 1
    assert "holds generator, discriminator; discriminator was read" in model.network.note
    with pytest.raises(UsageError, match=r"gan\.pt.* of its keys generator, discriminator none fits") as caught:
        gl.build(f"resnet14@{path}")
    assert "resnet14@PATH:KEY" in str(caught.value)


def test_of_several_that_fit_one_has_to_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "dino.pt"
    torch.save({"student": state(1), "teacher": under("module.", state(2))}, path)
    with pytest.raises(
        UsageError,
        match=r"several state dicts that fit resnet8, student, teacher: choose one, as resnet8@PATH:student$",
    ):
        gl.build(f"resnet8@{path}")
    with pytest.raises(UsageError, match="student, teacher"):
        read_checkpoint(path)
    assert seed_of(gl.build(f"resnet8@{path}:teacher")) == 2
    assert read_checkpoint(f"{path}:student")[0].keys() == read_checkpoint(path, "student")[0].keys() == state().keys()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_part_by_what_its_names_begin_with(suffix: str, tmp_path: Path) -> None:
    both = {**under("net.teacher.", state(1)), **under("net.student.", state(2)), "net.temperature": torch.ones(1)}
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save(both, path)
    else:
        safetensors.torch.save_file(both, path)
    with pytest.raises(UsageError, match=r"its parts net\.(\w+), net\.\w+ fit: give resnet8@PATH:net\.\1$"):
        gl.build(f"resnet8@{path}")
    assert seed_of(gl.build(f"resnet8@{path}:net.student")) == 2


def test_keys_lead_inward_and_may_have_dots(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    content = {
        "a": {"b.c": state(1), "b": {"c": {"state_dict": state(2)}}},
        "lightning": {"state_dict": under("g.", state(3))},
    }
    torch.save(content, path)
    assert seed_of(gl.build(f"resnet8@{path}:a.b.c")) == 1
    assert seed_of(gl.build(f"resnet8@{path}:a.b")) == 2
    assert seed_of(gl.build(f"resnet8@{path}:lightning.state_dict.g")) == 3
    with pytest.raises(UsageError, match=r"w\.pt has no 'a\.x': its keys are a, lightning$"):
        gl.build(f"resnet8@{path}:a.x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, "no tensors by name: its keys are epoch, lr"),
        ([torch.ones(3)], "holds no state dict"),
        ({"optimizer": {"state": {"a": {"exp_avg": torch.ones(3, 3)}}}}, "its keys are optimizer"),
    ],
)
def test_what_holds_no_state_dict(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(GradlabError, match=message):
        gl.build(f"resnet8@{tmp_path / 'w.pt'}")


def test_paths_with_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"ema": state(1), "model": state(2)}, "C:weights.pt")
    torch.save({"ema": state(3), "model": state(2)}, "weights:ema")
    assert split_key("C:weights.pt") == (Path("C:weights.pt"), "")
    assert split_key("C:weights.pt:ema") == (Path("C:weights.pt"), "ema")
    assert seed_of(gl.build("resnet8@C:weights.pt:ema")) == 1
    assert seed_of(gl.build("resnet8@weights:ema:ema")) == 3
    assert split_key("weights:ema") == (Path("weights:ema"), "")
    with pytest.raises(UsageError, match=r"D:\\nets\\w\.pt:ema does not exist"):
        gl.build(r"resnet8@D:\nets\w.pt:ema")
