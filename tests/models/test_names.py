"""The grammar of names: descriptions, canonical names, and errors for invalid names."""

import json
import re
import time
from fnmatch import fnmatch

import pytest
import torch

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.experiments.catalog import list_networks
from gradlab.models import cost, create, describe, is_mlp, named_cost, network_names, parse_name
from gradlab.models.families import FAMILIES

NAMES = network_names()


def test_every_family_is_listed_once() -> None:
    assert len(set(NAMES)) == len(NAMES)
    prefixes = [family.prefix for family in FAMILIES]
    assert len(set(prefixes)) == len(prefixes)
    assert all(family.listed for family in FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_listed_name_is_canonical_and_described(name: str) -> None:
    description = describe(name)
    assert description.name == parse_name(name).name == name
    assert json.loads(json.dumps(description.to_dict()))["family"] in name
    assert None not in (description.depth, description.kind, description.unit, description.width, description.form)
    assert str(description.depth) in name


FACTS = {
    "plain20": ("plain", 20, "plain", "original", "convolution", "batch", 16),
    "plain56-ll": ("plain", 56, "plain", "crelu", "convolution", "none", 16),
    "resnet56": ("resnet", 56, "residual", "original", "basic", "batch", 16),
    "resnet164-preact": ("resnet", 164, "residual", "preact", "bottleneck", "batch", 16),
    "resnet110-bottleneck": ("resnet", 110, "residual", "original", "bottleneck", "batch", 16),
    "imagenet/resnet50": ("resnet", 50, "residual", "original", "bottleneck", "batch", 64),
    "imagenet/plain34-width=8": ("plain", 34, "plain", "original", "convolution", "batch", 8),
    "imagenet/vgg16": ("vgg", 16, "plain", "relu", "convolution", "none", 64),
    "highway19": ("highway", 19, "highway", "relu", "highway", "none", 32),
    "densenet100-bc-k12": ("densenet", 100, "dense", "preact", "dense", "batch", 24),
    "vovnet27-slim": ("vovnet", 27, "osa", "original", "osa", "batch", 64),
    "imagenet/vovnet39": ("vovnet", 39, "osa", "original", "osa", "batch", 128),
    "mlp8-norm=none": ("mlp", 8, "plain", "relu", "linear", "none", 200),
    "mlp60": ("mlp", 60, "plain", "relu", "linear", "batch", 200),
    "resmlp8-beta=0.1": ("resmlp", 8, "residual", "preact", "linear", "batch", 200),
    "mlp8-ll": ("mlp", 8, "plain", "crelu", "linear", "none", 200),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_a_network(name: str) -> None:
    found = describe(name)
    assert (
        found.family, found.depth, found.kind, found.unit, found.block, found.normalization, found.width
    ) == FACTS[name]  # fmt: skip


def test_options_are_facts_too() -> None:
    assert describe("resnet20-B-beta=0.1").options == {"shortcut": "B", "beta": 0.1}
    assert describe("densenet100-bc-k24").options == {"bottleneck": True, "growth": 24}
    assert describe("resmlp8-beta=0.1-bias=0").options == {"beta": 0.1, "bias": 0}


@pytest.mark.parametrize(
    ("name", "family"), [("torchvision/vgg16", "torchvision"), ("timm/resnet18", "timm"), ("a.b:net", "function")]
)
def test_the_name_of_an_external_network_gives_its_package(name: str, family: str) -> None:
    found = describe(name)
    assert (found.name, found.family, found.kind, found.depth) == (name, family, None, None)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("resnet164-B", "resnet164"),
        ("resnet164-bottleneck", "resnet164"),
        ("resnet164-basic", "resnet164-basic"),
        ("resnet50-basic", "resnet50-basic"),
        ("resnet20-basic", "resnet20"),
        ("resnet110-A-exclusive-gate=-6.0", "resnet110-exclusive-gate=-6"),
        ("densenet40", "densenet40-k12"),
        ("highway19-bias=-2", "highway19"),
        ("vovnet39-width=128", "vovnet39"),
        ("mlp3-width=10-norm=bn", "mlp3-norm=bn-width=10"),
    ],
)
def test_canonical_names(name: str, canonical: str) -> None:
    assert parse_name(name).name == canonical
    assert parse_name(canonical) == parse_name(name)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_a_depth_of_two_papers_asks_which_is_meant(depth: int) -> None:
    with pytest.raises(UsageError, match="the CIFAR and ImageNet forms differ") as refused:
        gl.build(f"resnet{depth}@init")
    assert f"imagenet/resnet{depth}" in str(refused.value)
    assert f"torchvision/resnet{depth}" in str(refused.value)
    assert create(f"imagenet/resnet{depth}-width=2").input_shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("name", "imagenet", "cifar"),
    [
        ("resnet200", "timm/resnet200", "resnet200-basic"),
        ("resnet200-preact", "timm/resnet200", "resnet200-basic-preact"),
        ("densenet121", "torchvision/densenet121", "densenet121-k12"),
        ("densenet169", "torchvision/densenet169", "densenet169-k12"),
    ],
)
def test_further_names_of_published_networks_ask_which_is_meant(name: str, imagenet: str, cifar: str) -> None:
    with pytest.raises(UsageError, match=f"{imagenet} is that of ImageNet") as refused:
        parse_name(name)
    assert ("resnet200-basic" if name.startswith("resnet") else "as densenet40-k12") in str(refused.value)
    assert parse_name(cifar).name == cifar


def test_basic_says_that_the_cifar_form_is_meant() -> None:
    with pytest.raises(UsageError, match="resnet50-basic is the CIFAR form of 50 layers"):
        create("resnet50")
    assert cost(create("resnet50-basic"), (3, 32, 32)).layers == 50


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet20-foo", r"resnetDEPTH\[-A\|-B\|-C\].*\[-width=N\].*not foo$"),
        ("resnet20-witdh=8", "did you mean resnet20-width=8"),
        ("resnet20x", "not x$"),
        ("resnet20-beta=0.1-width=8", "in another order, resnet20-width=8-beta=0.1$"),
        ("resnet20-B-C", "A|B|C is given twice"),
        ("mlp8-norm=rms-norm=bn", "norm is given twice"),
        ("densenet41-k12", "3n [+] 4 layers; the nearest are densenet40-k12 and densenet43-k12"),
        ("densenet41-bc-k12", "6n [+] 4 layers; the nearest are densenet40-bc-k12 and densenet46-bc-k12"),
        ("resnet1202-bottleneck", "the nearest are resnet1199-bottleneck and resnet1208-bottleneck"),
        ("densenet40-k0", "k is the growth rate, a whole number, at least 1, not 0"),
        ("densenet40-x12", r"densenetDEPTH\[-bc\]\[-kN\]"),
        ("highway20", "the depths 19, 32, not 20"),
        ("highway19-bias=-30", "from -20 to 20, not -30"),
        ("vovnet28", "the depths 27, 39, 57, not 28"),
        ("vovnet39-width=3", "at least 4, not 3"),
        ("imagenet/vgg17", "the depths 11, 13, 16, 19, not 17"),
        ("vgg16", "imagenet/vgg16 or torchvision/vgg16"),
        ("densenet", "a name has a depth, as densenet40-k12"),
        ("resnet29", "6n [+] 2 layers; the nearest are resnet26 and resnet32"),
        ("resnet110-bottleneck-width=x", "the width is a number of channels, at least 1, not 'x'"),
        ("resnet20-bottleneck-shortcut=0", "a number above 0"),
        ("resnet110-exclusive-gate=-99", "from -20 to 20, not -99"),
        ("resnet110-shortcut-dropout=1", "above 0 and at most 0.95, not 1"),
        ("resnet110-exclusive-gate=-6-shortcut-gate=-6", "a shortcut is changed in one way"),
        ("resnet110-preact-shortcut-gate=-6", "for original units"),
        ("plain20-exclusive-gate=-6", "exclusive-gate is for residual CIFAR networks"),
        ("imagenet/resnet50-bottleneck", "bottleneck is for residual CIFAR networks"),
    ],
)
def test_invalid_names_are_refused(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_name(name)


def test_fully_connected_names() -> None:
    assert is_mlp("mlp50-ll")
    assert is_mlp("resmlp3")
    assert not is_mlp("resnet20")


LARGE = ("imagenet", "webtext")
SMALL = [
    pytest.param(name, marks=pytest.mark.thorough) if (describe(name).depth or 0) > 30 else name
    for name in NAMES
    if describe(name).form not in LARGE and (describe(name).depth or 0) < 60
]


@pytest.mark.parametrize(
    "name", [*SMALL, "imagenet/resnet18", "resnet26-preact", "resnet38-bottleneck", "mlp1", "mlp2"]
)
def test_counting_without_drawing_says_the_same(name: str) -> None:
    model = create(name)
    assert named_cost(parse_name(name)) == cost(model, model.input_shape)  # type: ignore[arg-type]


def test_listing_is_quick() -> None:
    before = time.process_time()
    frame, _ = list_networks()
    assert time.process_time() - before < 3
    assert frame["network"].tolist() == NAMES


@pytest.mark.parametrize("name", ["resnet20", "torchvision/resnet18", "resnet*"])
@pytest.mark.parametrize("weights", ["init", "trained", "/no/file.pt"])
def test_networks_are_listed_without_weights(name: str, weights: str) -> None:
    with pytest.raises(
        UsageError, match=f"without weights, of which a column tells the choices: give {re.escape(name)}$"
    ):
        list_networks(f"{name}@{weights}")


@pytest.mark.parametrize("name", ["resnet26", "resnet26-preact-width=8", "resnet20-beta=0.1", "densenet40-k6", "mlp3"])
def test_every_variant_shows_its_counts(name: str) -> None:
    (row,) = list_networks(name)[0].to_dict("records")
    model = create(name)
    assert (row["network"], row["parameters"]) == (name, sum(p.numel() for p in model.parameters()))


def test_a_listed_name_is_the_canonical_one() -> None:
    assert list_networks("resnet20-beta=.10")[0]["network"].tolist() == ["resnet20-beta=0.1"]
    with pytest.raises(UsageError, match="torchvision has no such model"):
        list_networks("torchvision/resnet19")
    with pytest.raises(UsageError, match="no network matches"):
        list_networks("nosuch*")


def test_several_names_and_globs_are_listed_in_their_order_each_once() -> None:
    frame, _ = list_networks(["vovnet27-slim", "resnet2?", "resnet20"])
    assert frame["network"].tolist() == ["vovnet27-slim", *(name for name in NAMES if fnmatch(name, "resnet2?"))]
    with pytest.raises(UsageError, match=r"no network matches 'nosuch\*'"):
        list_networks(["resnet20", "nosuch*"])


def test_records_of_old_names_are_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Before bottlenecks, resnet50 was a CIFAR net of basic blocks."""
    model, path = create("resnet50-basic", seed=4), tmp_path / "old.safetensors"
    gl.save_checkpoint(model, path, {"network": "resnet50"})
    again = gl.build(f"resnet50-basic@{path}")
    assert torch.equal(again.conv1.weight, model.conv1.weight)
