"""Requests of measurements: equal in Python, on the command line and in the record, with errors of one sentence."""

import inspect
from dataclasses import fields
from typing import get_args

import pytest
from torch import nn

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.experiments.compare.request import BLOCKS, CompareRequest
from gradlab.experiments.gradients.request import GradientsRequest
from gradlab.experiments.input_gradients.request import InputGradientsRequest
from gradlab.experiments.jacobian.request import JacobianRequest
from gradlab.experiments.networks import networks
from gradlab.experiments.request import NetworksRequest
from gradlab.experiments.responses.request import ResponsesRequest
from gradlab.experiments.shatter.request import Init, ShatterRequest
from gradlab.experiments.signal.request import SignalRequest
from gradlab.experiments.subject import unique_label
from gradlab.experiments.text import interval, items, normalizations, whole_numbers
from gradlab.models.mlp import family

REQUESTS = {
    "responses": ResponsesRequest,
    "gradients": GradientsRequest,
    "input_gradients": InputGradientsRequest,
    "shatter": ShatterRequest,
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_has_the_arguments_of_its_function(name):
    parameters = dict(inspect.signature(getattr(gl, name)).parameters)
    # What is called as the work proceeds, and the folder of finished parts, change no result.
    parameters = {key: p for key, p in parameters.items() if key not in ("progress", "keep")}
    missing = inspect.Parameter.empty
    asked = {known.name: known.default for known in fields(REQUESTS[name])}
    assert asked.pop("models", None) in (None, *[f.default for f in fields(NetworksRequest) if f.name == "models"])
    assert asked == {key: p.default for key, p in parameters.items() if p.default is not missing}


def test_requests_are_recorded_as_plain_values():
    request = GradientsRequest(models=nn.Linear(2, 2), layers=["a", "b*"], normalize=("none",))
    options = request.options()
    assert options["models"] == ["Linear"]
    assert options["layers"] == ["a", "b*"]
    assert options["normalize"] == ["none"]
    assert options["seeds"] == 5
    assert list(options) == list(request.arguments())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"models": ()}, "name at least one network"),
        ({"models": "a", "bn": "train"}, "bn is eval or batch, not 'train'"),
        ({"models": "a", "batch_size": 0}, "batch size must be at least 1; got 0"),
        ({"models": "a", "batch_size": "many"}, "batch size must be at least 1; got many"),
    ],
)
def test_invalid_requests_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        NetworksRequest(**options)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("seed", [10**20, -1])
def test_seeds_that_torch_lacks_are_refused(name, seed):
    models = {} if name == "shatter" else {"models": "a"}
    with pytest.raises(UsageError, match=f"seed must be from 0 to .*; got {seed}"):
        REQUESTS[name](**models, seed=seed)


@pytest.mark.parametrize("request_", [GradientsRequest, InputGradientsRequest, JacobianRequest, SignalRequest])
def test_numbers_of_seeds_are_bounded(request_):
    with pytest.raises(UsageError, match="seeds must be from 1 to 10,000; got 10001"):
        request_(models="a", seeds=10_001)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tolerance": 0.1}, "--tolerance is for --question block alone"),
        ({"blocks": ["resnet", "plain"]}, "--blocks is for --question block alone"),
        ({"preset": "he2015"}, "--preset is for --epochs alone"),
        ({"epochs": 1, "tolerance": 0.1}, "--tolerance is for --question block alone"),
    ],
)
def test_options_of_a_comparison_that_it_does_not_use_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        CompareRequest(**options)
    assert CompareRequest(blocks=list(BLOCKS)).question == "depth"


def test_commas_in_paths_of_existing_files_separate_no_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    for name in ("a,b/c,d.pt", "one.pt", "one.pt,two", "c,d.json"):
        (tmp_path / name).touch()
    folder = str(tmp_path / "a,b")
    for text, expected in {
        "resnet20, plain20@init,": ["resnet20", "plain20@init"],
        f"plain20,resnet20@{folder}/c,d.pt,plain56": ["plain20", f"resnet20@{folder}/c,d.pt", "plain56"],
        "resnet20@a,b/c,d.pt:ema.net,plain20@one.pt:x": ["resnet20@a,b/c,d.pt:ema.net", "plain20@one.pt:x"],
        "resnet20@one.pt,plain20@one.pt": ["resnet20@one.pt", "plain20@one.pt"],
        "resnet20@one.pt:ema,plain20": ["resnet20@one.pt:ema", "plain20"],
        "resnet20@one.pt,two": ["resnet20@one.pt,two"],
        "resnet20@a,b/none.pt": ["resnet20@a", "b/none.pt"],
        "plain20,transformers/c,d.json@init,plain56": ["plain20", "transformers/c,d.json@init", "plain56"],
        "transformers/c,d.json,plain20@a,b/c,d.pt": ["transformers/c,d.json", "plain20@a,b/c,d.pt"],
        "c,d.json": ["c", "d.json"],
    }.items():
        assert networks([text]) == expected, text
    assert networks(["a,b", "c"]) == ["a", "b", "c"]


def test_text_becomes_values():
    assert items(["a, b", "c,"]) == ["a", "b", "c"]
    assert whole_numbers(["1,2", "30"]) == [1, 2, 30]
    assert interval("-2:1e1") == (-2.0, 10.0)
    assert normalizations(["imagenet,0.5,0.5,0.5/0.2,0.2,0.2"]) == ["imagenet", "0.5,0.5,0.5/0.2,0.2,0.2"]
    for read, text in ((whole_numbers, ["1,-2"]), (whole_numbers, ["9" * 5000]), (interval, "1"), (interval, "1:2:3")):
        with pytest.raises(ValueError, match="is not"):
            read(text)


def test_initializations_are_those_of_the_nets():
    assert get_args(Init) == get_args(family.Init)


@pytest.mark.parametrize("wrong", [None, 3, [3], ("plain8@init" for _ in range(1))])
def test_what_is_no_network_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError, match=r"a network is a name or a torch.nn.Module, not"):
        gl.responses(wrong)  # type: ignore[arg-type]


def test_a_label_is_numbered_among_its_equals_alone() -> None:
    taken = ["plain8@init", "plain8@init:1"]
    assert unique_label("plain8@init", taken) == "plain8@init (2)"
    assert unique_label("plain8@init", [*taken, "plain8@init (2)"]) == "plain8@init (3)"
    assert unique_label("plain20@init", taken) == "plain20@init"
