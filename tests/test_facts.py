"""Modules of somebody else have parts and attributes that are named as gradlab names what it knows of a network."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradlab as gl
from gradlab.facts import input_shape_of, name_of, network_of, normalization_of, vocabulary_of
from gradlab.normalization import Normalization


def body() -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


class Own(nn.Module):
    """A network with one more attribute."""

    def __init__(self, **own: Any) -> None:
        super().__init__()
        self.body = body()
        for name, value in own.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


OWN: list[dict[str, Any]] = [
    *({"network": value} for value in (nn.Linear(2, 2), "resnet", {"trained": False}, None)),
    *({"name": value} for value in (nn.Identity(), 3, lambda: "x", None)),
    *({"normalization": value} for value in (nn.LayerNorm(3), "batch", True, None)),
    *({"input_shape": value} for value in ((None, 3, 32, 32), 32, "3x32x32", (), None, (3.0, 32, 32), (True, 32, 32))),
    *({"vocabulary": value} for value in (["a", "b"], {"a": 0}, 0, -1, True, None)),
    {"default_data": "mine"},
    {"pretrained_cfg": "mine"},
]
MEASURES: dict[str, Callable[[nn.Module], Any]] = {
    "responses": lambda model: gl.responses(model, images=4),
    "gradients": lambda model: gl.gradients(model, images=4, batch_size=4),
    "input_gradients": lambda model: gl.input_gradients(model, points=4, lags=1, images=4, batch_size=4),
}


@pytest.mark.parametrize("own", OWN, ids=lambda own: str(*own))
def test_attributes_of_other_types_are_no_facts(own: dict[str, Any]) -> None:
    model = Own(**own)
    assert (network_of(model), normalization_of(model), vocabulary_of(model)) == (None, None, None)
    assert (name_of(model), input_shape_of(model)) == ("Own", None)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("place", [0, 4, 8, 11, 16], ids=lambda place: str(*OWN[place]))
def test_they_change_no_measurement(measure: str, place: int) -> None:
    (value,) = OWN[place].values()
    found, right = MEASURES[measure](Own(**OWN[place])), MEASURES[measure](Own(other=value))
    frame = found.frame.replace({"layer": dict.fromkeys(OWN[place], "other")})
    assert frame.equals(right.frame)
    assert "Own" in found.networks[0]


class Detached(Own):
    """Properties that are not there yet."""

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def network(self) -> nn.Module:
        raise RuntimeError("not attached")

    @property
    def input_shape(self) -> tuple[int, ...]:
        raise ValueError("not known before the first batch")


def test_properties_that_raise_are_no_facts() -> None:
    model = Detached()
    assert (name_of(model), network_of(model), input_shape_of(model)) == ("Detached", None, None)
    assert gl.responses(model, images=4).networks == ["Detached"]


def test_facts_that_are_given_count() -> None:
    model = Own(
        name="mine", normalization=Normalization("0.5/0.25"), input_shape=[3, 16, 16], vocabulary=7, pretrained_cfg={}
    )
    assert (name_of(model), str(normalization_of(model)), vocabulary_of(model)) == ("mine", "0.5/0.25", 7)
    assert input_shape_of(model) == (3, 16, 16)
    assert input_shape_of(Own(pretrained_cfg={"input_size": (3, 48, 48)})) == (3, 48, 48)
    assert name_of(None) == "NoneType"


FUNCTION = """
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        self.normalization, self.name = nn.BatchNorm2d(3), "of its own"

    def forward(self, x):
        return self.network(self.normalization(x))
"""


def test_build_leaves_the_parts_of_other_peoples_modules_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "names_of_parts.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    model = gl.build("names_of_parts:Own@init:3")
    assert type(model.network) is nn.Sequential
    assert type(model.normalization) is nn.BatchNorm2d
    assert model.name == "of its own"
    for one in (model, copy.deepcopy(model)):
        network = network_of(one)
        assert network is not None
        assert (network.weights, name_of(one), normalization_of(one)) == ("init:3", "names_of_parts:Own@init:3", None)
    result = gl.responses(model, images=4)
    assert result.networks == ["names_of_parts:Own@init:3"]
    assert result.record["networks"][0]["weights_label"] == "init:3"


def test_what_cannot_run_says_how_to_name_its_inputs() -> None:
    with pytest.raises(gl.GradlabError, match=r"Flat cannot run on .*; with model.input_shape = \(3, 224, 224\)"):
        gl.responses(Flat(), images=4)
    model = Flat()
    model.input_shape = (3, 8, 8)  # type: ignore[assignment]
    with pytest.raises(gl.GradlabError, match=r"; it takes \(3, 8, 8\); data noise and imagefolder:PATH .* have that"):
        gl.responses(model, images=4)
    assert len(gl.responses(model, data="noise", images=4, layers="*").frame) == 1


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def test_tokens_that_a_network_cannot_take_are_named() -> None:
    with pytest.raises(gl.GradlabError, match=r"Own cannot run on tokens of shape \(4, 128\): "):
        gl.input_gradients(Own(vocabulary=100), points=4, lags=1, images=4, batch_size=4)
