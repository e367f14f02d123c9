"""The language NAME[@WEIGHTS], and published weights without network."""

import urllib.error
from pathlib import Path

import pytest
import torch

import gradlab as gl
from gradlab import hub
from gradlab.checkpoints import file_digest
from gradlab.errors import GradlabError, UsageError
from gradlab.models import create


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def test_what_build_says_of_a_network() -> None:
    model = gl.build("resnet20@init:7")
    assert (model.name, model.network.weights, model.network.trained) == ("resnet20@init:7", "init:7", False)
    assert model.normalization is None
    assert model.input_shape == (3, 32, 32)
    assert gl.build("resnet20", "init").name == "resnet20@init"
    assert gl.build("resnet20", "init", seed=3).name == "resnet20@init:3"
    assert torch.equal(gl.build("resnet20@init:7").conv1.weight, gl.build("resnet20", "init", seed=7).conv1.weight)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet1202", "no bundled trained weights: give resnet1202@init, .* or resnet1202@hub"),
        ("plain8", "no bundled trained weights: give plain8@init"),
        ("resnet20@init:x", "whole number"),
        ("resnet20@inti", "inti does not exist; WEIGHTS is"),
        ("plain20@hub", "plain20 has no published weights; hub has resnet20"),
        ("imagenet/resnet50@hub", "torchvision/resnet50@hub has"),
        ("torchvision/resnet50@hub:V3", "has the weights IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, not V3"),
        ("torchvision/resnet51@hub", "no such model"),
        ("torchvision/resnt18", "the nearest are torchvision/resnet18"),
        ("resnet20@hub:foo", "hub takes no 'foo'"),
        ("resnet20@init:99999999999999999999", "a seed is from 0"),
        ("resnet60002@init", "10,000 layers"),
        ("resnet２０@init", "unknown network"),
        (":", "names no function"),
    ],
)
def test_weights_that_are_not_there(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gl.build(spec)


def test_no_network_says_what_to_put_where(hub_cache: Path, no_network: None) -> None:
    with pytest.raises(GradlabError, match=r"resnet110-1d1ed7c2\.th is not in .*checkpoints and could not be"):
        gl.build("resnet110@hub")
    with pytest.raises(GradlabError, match="no route to host"):
        gl.build("torchvision/resnet18@hub:IMAGENET1K_V1")


def test_a_file_in_the_cache_needs_no_network(
    hub_cache: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = create("resnet8", seed=9)
    path = hub_cache / "resnet8.th"
    torch.save(source.state_dict(), path)
    entry = hub.Published("resnet8", "resnet8.th", file_digest(path)[:8], "me", "imagenet", "https://example.org/x")
    monkeypatch.setattr(hub, "PUBLISHED", (entry,))
    model = gl.build("resnet8@hub")
    assert torch.equal(model.conv1.weight, source.conv1.weight)
    assert (model.name, model.network.recipe, str(model.normalization)) == ("resnet8@hub", "me", "imagenet")
    # The same file under any name is known by its digest.
    copy = hub_cache / "renamed.pt"
    copy.write_bytes(path.read_bytes())
    assert gl.build(f"resnet8@{copy}").network.recipe == "me"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(GradlabError, match="is not the published file"):
        gl.build("resnet8@hub")


def test_every_torchvision_enum_has_a_normalization() -> None:
    entry = hub.torchvision_weights("resnet50", "IMAGENET1K_V2")
    assert entry.normalization == "0.485,0.456,0.406/0.229,0.224,0.225"
    assert entry.url is not None
    assert entry.sha256 in entry.url
    assert hub.torchvision_weights("resnet50", "DEFAULT").file == entry.file


def test_a_function_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynets.py").write_text(
        "import torch.nn as nn\n\ndef tiny():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = gl.build("mynets:tiny@init")
    assert model.name == "mynets:tiny@init"
    assert model.network.recipe == "its own initialization"
    returned = gl.build("mynets:tiny")
    assert (returned.name, returned.network.trained) == ("mynets:tiny@trained", True)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    assert torch.equal(gl.build(f"mynets:tiny@{tmp_path / 'tiny.pt'}")[0].weight, model[0].weight)


def test_published_networks_that_rescale_their_images_do(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import get_model

    source = get_model("googlenet", weights=None, init_weights=False)
    path = hub_cache / "googlenet.pth"
    torch.save(source.state_dict(), path)
    entry = hub.Published("torchvision/googlenet", path.name, file_digest(path)[:8], "theirs", "imagenet")
    monkeypatch.setattr(hub, "torchvision_weights", lambda name, choice: entry)
    source.transform_input = True
    images = torch.randn(1, 3, 64, 64)
    model = gl.build("torchvision/googlenet@hub")
    with torch.no_grad():
        assert torch.equal(model(images), source.eval()(images))
    assert not gl.build(f"torchvision/googlenet@{path}").transform_input


@pytest.mark.parametrize(
    "spec", ["{}", "resnet20@{}", "timm/{}", "torchvision/{}", "os:{}", "resnet20@init:9{}", "resnet20@hub:{}"]
)
def test_errors_are_short(spec: str) -> None:
    with pytest.raises(GradlabError) as caught:
        gl.build(spec.format("9" * 5000))
    assert len(str(caught.value)) <= 500
