"""The coordinate check equals an explicit loop, finds kinds and places, and refuses invalid arguments."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.coordinates.places import kinds, places

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3
WIDTHS = (8, 16, 32)


def make_model(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.Linear(width, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_values_equal_those_of_an_explicit_loop() -> None:
    frame = gl.coordinate_check(make_model, widths=WIDTHS, batch=(X, Y), seeds=2, steps=2, device="cpu").to_frame()
    for row in frame[["value", "seed"]].drop_duplicates().itertuples():
        torch.manual_seed(row.seed)
        model, optimizer = make_model(row.value)
        model.double()
        first = [layer.weight.detach().clone() for layer in (model[0], model[2], model[3])]
        biases = [layer.bias.detach().clone() for layer in (model[0], model[2], model[3])]
        begun = None
        for step in range(3):
            a = model[0](X.double())
            b = model[2](a.relu())
            responses, inputs = [a, b, model[3](b)], [X.double(), a.relu(), b]
            begun = begun or [response.detach() for response in responses]
            at = frame[(frame["value"] == row.value) & (frame["seed"] == row.seed) & (frame["step"] == step)]
            assert list(at["layer"]) == ["0", "2", "3"]
            rms = [response.square().mean().sqrt().item() for response in responses]
            change = [(r - before).square().mean().sqrt().item() for r, before in zip(responses, begun, strict=True)]
            old = [F.linear(i, w, c) for i, w, c in zip(inputs, first, biases, strict=True)]
            update = [(r - o).square().mean().sqrt().item() for r, o in zip(responses, old, strict=True)]
            assert list(at["rms"]) == pytest.approx(rms, rel=1e-9)
            assert list(at["change"]) == pytest.approx(change, rel=1e-9)
            assert list(at["update"]) == pytest.approx(update, rel=1e-9)
            optimizer.zero_grad()
            F.cross_entropy(responses[2], Y).backward()
            optimizer.step()


class Several(nn.Module):
    """Every kind of layer."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(depth))
        self.mark, self.head, self.fixed = nn.Identity(), nn.Linear(width, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = x + block(x)
        return self.fixed(self.head(self.mark(x)))


def test_kinds_of_layers() -> None:
    models = {width: Several(width, 1) for width in (4, 8)}
    assert kinds(models, places(models)) == {
        "output": "output",
        "embedding": "input",
        "blocks.0": "block",
        "blocks.0.0": "vector",
        "blocks.0.1": "hidden",
        "mark": "signal",
        "head": "output",
        "fixed": "fixed",
    }


def test_places_in_lists_that_grow() -> None:
    found = places({depth: Several(4, depth) for depth in (3, 5, 9)})
    assert found[9]["blocks.0.1"] == "blocks[first].1"
    assert found[9]["blocks.4.1"] == "blocks[middle].1"
    assert found[9]["blocks.8"] == "blocks[last]"
    assert "blocks.3" not in found[9]
    assert {*found[3].values()} == {*found[9].values()}


def test_output_that_is_zero_at_initialization_and_frozen_layers() -> None:
    def zeros(width: int) -> nn.Module:
        model, _ = make_model(width)
        nn.init.zeros_(model[3].weight)
        nn.init.zeros_(model[3].bias)
        return model.requires_grad_(True)

    result = gl.coordinate_check(zeros, widths=WIDTHS, batch=(X, Y), seeds=2, device="cpu")
    table = result.slopes().set_index(["layer", "quantity"])["verdict"]
    assert table["3", "size"] == "not told"


def test_untrained_layer_is_a_finding() -> None:
    def still(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, _ = make_model(width)
        return model, torch.optim.Adam([*model[2].parameters(), *model[3].parameters()], lr=1e-3)

    result = gl.coordinate_check(still, widths=WIDTHS, batch=(X, Y), seeds=2, device="cpu")
    assert not result.passed
    sentence = "0 (input): the change that its own weights make is exactly 0 at every width."
    assert sentence in result.findings()


def test_non_finite_values_are_a_finding() -> None:
    def explodes(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, _ = make_model(width)
        return model, torch.optim.SGD(model.parameters(), lr=1e200)

    result = gl.coordinate_check(explodes, widths=WIDTHS, batch=(X, Y), seeds=2, device="cpu")
    assert any("is not finite" in finding for finding in result.findings())


def test_random_state_does_not_change() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    gl.coordinate_check(make_model, widths=WIDTHS, batch=(X, Y), seeds=2, device="cpu")
    assert torch.get_rng_state().equal(before)


def test_saved_and_loaded(tmp_path: Path) -> None:
    result = gl.coordinate_check(make_model, widths=WIDTHS, batch=(X, Y), seeds=3, device="cpu")
    result.save(tmp_path, ("png",))
    loaded = gl.Result.load(tmp_path)
    assert isinstance(loaded, gl.CoordinatesResult)
    assert loaded.findings() == result.findings()
    assert list(loaded.summary()["verdict"]) == list(result.summary()["verdict"])


def test_data_other_than_named_is_told_and_one_step_is_counted() -> None:
    name = "gpt1-width={width}-heads=2-context=8-vocab=11"
    result = gl.coordinate_check(name, widths=WIDTHS, seeds=2, images=2, steps=1, device="cpu")
    assert result.notes == [f"{name}: measured on tokens, its data by default, and not on cifar10-sample"]
    assert result.record["networks"][0]["data"] == "tokens"
    assert "its change after 1 step" in result.svg()["coordinates"]
    named = gl.coordinate_check(name, data="tokens", widths=WIDTHS, seeds=2, images=2, steps=1, device="cpu")
    assert named.notes == []


def test_name_with_a_placeholder_and_name_of_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"seeds": 2, "images": 2, "steps": 1, "device": "cpu", "data": "noise", "batch": None}
    options |= {"batch": (torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))}
    frame = gl.coordinate_check("resnet{depth}", depths=(8, 14, 20), **options).to_frame()
    assert set(frame["value"]) == {8, 14, 20}
    module = types.ModuleType("scaled_by_width")
    module.make_model = make_model
    monkeypatch.setitem(sys.modules, "scaled_by_width", module)
    named = gl.coordinate_check("scaled_by_width:make_model", widths=WIDTHS, batch=(X, Y), seeds=2, device="cpu")
    assert named.networks == ["scaled_by_width:make_model"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "three or more widths"),
        ({"widths": (8, 16)}, "three or more different"),
        ({"widths": (8, 8, 16)}, "three or more different"),
        ({"widths": WIDTHS, "parametrization": "ntk"}, "parametrization is"),
        ({"widths": WIDTHS, "parametrization": "standard", "steps": 3}, "first step"),
        ({"widths": WIDTHS, "parametrization": "standard", "depths": (1, 2, 3)}, "over depth"),
        ({"widths": WIDTHS, "optimizer": "lion"}, "adam, sgd"),
        ({"widths": WIDTHS, "seeds": 1}, "seeds must be from 2 to 10,000"),
        ({"widths": WIDTHS, "branch": 2.0}, "power from 0 to 1"),
        ({"widths": WIDTHS, "make_model": "resnet20"}, "has no width or depth"),
        ({"widths": WIDTHS, "make_model": "resnet{depth}"}, "give depths"),
        ({"widths": WIDTHS, "make_model": lambda width: width}, "returns a torch.nn.Module"),
    ],
)
def test_invalid_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gl.coordinate_check(**{"make_model": make_model, "batch": (X, Y), "device": "cpu", **options})


def test_optimizer_without_known_exponents_is_refused() -> None:
    with pytest.raises(UsageError, match="known exponents for SGD and Adam"):
        gl.coordinate_check(
            lambda width: make_model(width)[0],
            widths=WIDTHS,
            batch=(X, Y),
            parametrization="standard",
            optimizer=lambda model: torch.optim.Adagrad(model.parameters()),
            device="cpu",
        )


class Failing(nn.Module):
    """A network that fails as it runs, or gives fewer outputs than there are classes."""

    def __init__(self, width: int, fails: bool) -> None:
        super().__init__()
        self.fc, self.fails = nn.Linear(3072, width), fails

    def forward(self, x: Tensor) -> Tensor:
        if self.fails:
            raise ValueError("no such input")
        return self.fc(x.flatten(1))[:, :2]


def refuses(width: int) -> nn.Module:
    raise ValueError(f"no width {width}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (refuses, r"^refuses\(width=2\) raised ValueError: no width 2$"),
        (lambda width: Failing(width, True), r"^Failing cannot run on float64 images .*: no such input$"),
        (lambda width: Failing(width, False), r"^Failing has outputs of which there is no loss with these targets: "),
    ],
)
def test_a_network_that_fails_is_named(make: Any, message: str) -> None:
    with pytest.raises(GradlabError, match=message):
        gl.coordinate_check(make, widths=(2, 3, 4), seeds=2, images=8, device="cpu")
