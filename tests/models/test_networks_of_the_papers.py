"""The networks of the papers, against the papers' tables."""

import pytest
import torch
from torch import nn

from gradlab.errors import GradlabError, UsageError
from gradlab.models import (
    Architecture,
    cost,
    create,
    infer_architectures,
    is_projection,
    named_cost,
    network_names,
    parse_name,
)

IMAGE = {"cifar": (3, 32, 32), "imagenet": (3, 224, 224)}


def shape_of(name: str) -> tuple[int, ...]:
    return IMAGE["imagenet" if name.startswith("imagenet/") else "cifar"]


@pytest.mark.parametrize(
    ("depth", "printed"),
    [
        *((20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)),
        pytest.param(1202, 19.4, marks=pytest.mark.thorough),
    ],
)
def test_parameters_of_table_6(depth: int, printed: float) -> None:
    millions = cost(create(f"resnet{depth}"), IMAGE["cifar"]).parameters / 1e6
    assert round(millions, 1 if printed > 1 else 2) == printed


def test_parameters_of_the_deepest_network_of_table_6_as_they_are_listed() -> None:
    assert round(named_cost(parse_name("resnet1202")).parameters / 1e6, 1) == 19.4


# The exact counts with those of Table 1: 34 layers have 3.64 (printed 3.6), 50 have 3.86 (printed 3.8, truncated),
# and 101 have 7.57 (printed 7.6); the projections of the bottleneck nets are counted.
@pytest.mark.parametrize(
    ("depth", "printed", "exact"),
    [
        (18, 1.8, 1_794_805_760),
        (34, 3.6, 3_644_493_824),
        (50, 3.8, 3_857_973_248),
        (101, 7.6, 7_570_194_432),
        (152, 11.3, 11_282_415_616),
    ],
)
def test_multiply_adds_of_table_1(depth: int, printed: float, exact: int) -> None:
    name = f"imagenet/resnet{depth}"
    # The weights of the two deepest are not drawn: test_names compares both ways of counting.
    counted = cost(create(name), IMAGE["imagenet"]) if depth <= 50 else named_cost(parse_name(name))
    assert counted.multiply_adds == exact
    assert counted.layers == depth
    assert abs(exact / 1e9 - printed) < 0.06


def test_multiply_adds_by_hand() -> None:
    """ResNet-20: a stem, then 6, 6 and 6 convolutions at 32², 16² and 8², then the classifier."""
    stem = 32**2 * 16 * 27
    first = 6 * 32**2 * 16 * 16 * 9
    second = 16**2 * 32 * 16 * 9 + 5 * 16**2 * 32 * 32 * 9
    third = 8**2 * 64 * 32 * 9 + 5 * 8**2 * 64 * 64 * 9
    assert cost(create("resnet20"), IMAGE["cifar"]).multiply_adds == stem + first + second + third + 640


OF_HE = [name for name in network_names() if isinstance(parse_name(name), Architecture) and "=" not in name]


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(n, marks=pytest.mark.thorough) if parse_name(n).depth > 60 else n for n in OF_HE),
        *("resnet8", "resnet26-B", "resnet20-C", "imagenet/resnet34-B"),
        # In place of those deeper than 60 layers, which are in the thorough tests.
        *(f"resnet14-{unit}" for unit in ("relu-preact", "relu-before-add", "bn-after-add")),
        *("resnet11-bottleneck", "resnet11-bottleneck-preact"),
    ],
)
def test_every_network_has_the_layers_its_name_says(name: str) -> None:
    model = create(name)
    depth = int(name.partition("-")[0].split("net")[-1].split("plain")[-1])
    assert cost(model, shape_of(name)).layers == depth
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not is_projection(n, m)]
    assert len(convolutions) == depth - 1
    assert parse_name(name).name == name
    assert parse_name(name).shown in infer_architectures(model.state_dict())


@pytest.mark.parametrize("name", ["imagenet/resnet18", "imagenet/resnet50", "imagenet/plain34"])
def test_map_sizes_of_table_1(name: str) -> None:
    sizes = {}
    model = create(name).to("meta")
    for part in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(part).register_forward_hook(
            lambda m, args, out, part=part: sizes.__setitem__(part, out.shape[-1])
        )
    assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)
    assert list(sizes.values()) == [112, 56, 28, 14, 7]


@pytest.mark.parametrize("depth", [20, 56])
def test_a_plain_net_is_its_residual_net_without_shortcuts(depth: int) -> None:
    plain, residual = create(f"plain{depth}", seed=3), create(f"resnet{depth}", seed=3)
    ours, theirs = plain.state_dict(), residual.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("option", ["B", "C"])
def test_projections_are_drawn_after_the_body(option: str) -> None:
    body = create("resnet20").state_dict()
    projected = create(f"resnet20-{option}").state_dict()
    assert all(torch.equal(body[key], projected[key]) for key in body)


def test_zero_padding_shortcut() -> None:
    block = create("resnet20").layer2[0]
    x = torch.randn(2, 16, 8, 8)
    out = block.shortcut(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()
    assert not list(block.shortcut.parameters())


def test_residual_block_by_hand() -> None:
    block = create("resnet20").eval().layer1[0]
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        inner = torch.relu(block.bn1(block.conv1(x)))
        expected = torch.relu(block.bn2(block.conv2(inner)) + x)
        assert torch.equal(block(x), expected)


def test_he_initialization() -> None:
    model = create("resnet110", seed=1)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            n = module.in_channels * 9
            sampling = 4 / (2 * module.weight.numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=sampling), name
    assert not model.fc.bias.any()


def test_building_draws_from_its_seed_alone() -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = create("resnet20", seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    assert all(torch.equal(v, first[k]) for k, v in create("resnet20", seed=5).state_dict().items())
    assert not torch.equal(create("resnet20", seed=6).conv1.weight, first["conv1.weight"])


def test_external_networks_draw_from_their_seed_alone() -> None:
    state = torch.get_rng_state()
    a, b = create("torchvision/resnet18", seed=2), create("torchvision/resnet18", seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.conv1.weight, b.conv1.weight)
    assert not torch.equal(create("torchvision/resnet18", seed=3).conv1.weight, a.conv1.weight)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnt110", "resnet110"),
        ("resnet21", "resnet20 and resnet26"),
        ("resnet2", "resnet8"),
        ("plain20-B", "no shortcuts"),
        ("imagenet/resnet19", "18, 34, 50, 101, 152"),
        ("torchvision/resnet19", "torchvision/resnet18"),
        ("timm/resnet19", "timm/resnet18"),
        ("no.such.module:build", "no module"),
        ("json:build", "no function 'build'"),
        ("net.py:build", "is a path, not the name of a module: give net:build$"),
        ("./net.py:build", "give net:build$"),
        ("nets/small:build", "give small:build, run in nets or with that folder in PYTHONPATH$"),
        ("resnet20-width=0", "at least 1"),
        ("", "gradlab models"),
    ],
)
def test_names_that_are_not_known(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        create(name)


@pytest.mark.parametrize(
    ("name", "hint"), [("json:JSONDecoder", "returned JSONDecoder"), ("json:dumps", "raised TypeError")]
)
def test_functions_that_build_no_network(name: str, hint: str) -> None:
    with pytest.raises(GradlabError, match=hint):
        create(name)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18", "timm/regnety_002"])
def test_external_networks(name: str) -> None:
    model = create(name)
    counted = cost(model, model.input_shape)
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert counted.multiply_adds > 1e8
