"""Networks of the later papers: their printed counts, and each network against its definition written out."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import gradlab as gl
from gradlab.models import create, infer_architectures, named_cost, parse_name

# Millions of parameters and where they are printed, with a note where a paper rounds differently.
PARAMETERS = [
    ("resnet164", 1.7, "arXiv:1608.06993, Table 2"),
    ("resnet164-preact", 1.7, "arXiv:1608.06993, Table 2"),
    ("resnet1001-preact", 10.3, "10,327,706; arXiv:1608.06993, Table 2, prints 10.2"),
    ("highway19", 2.3, "arXiv:1505.00387, Table 1 (Highway B)"),
    ("highway32", 1.25, "arXiv:1505.00387, Table 1 (Highway C)"),
    ("densenet40-k12", 1.0, "arXiv:1608.06993, Table 2"),
    ("densenet100-bc-k12", 0.8, "arXiv:1608.06993, Table 2"),
    ("densenet100-k12", 7.0, "arXiv:1608.06993, Table 2"),
    ("densenet100-k24", 27.2, "arXiv:1608.06993, Table 2"),
    ("densenet250-bc-k24", 15.3, "arXiv:1608.06993, Table 2"),
    ("densenet190-bc-k40", 25.6, "arXiv:1608.06993, Table 2"),
    ("imagenet/vgg11", 133, "arXiv:1409.1556, Table 2"),
    ("imagenet/vgg13", 133, "arXiv:1409.1556, Table 2"),
    ("imagenet/vgg16", 138, "arXiv:1409.1556, Table 2"),
    ("imagenet/vgg19", 144, "arXiv:1409.1556, Table 2"),
]


@pytest.mark.parametrize(("name", "millions", "source"), PARAMETERS)
def test_parameters_as_printed(name: str, millions: float, source: str) -> None:
    digits = len(str(millions).partition(".")[2]) if isinstance(millions, float) else 0
    assert round(named_cost(parse_name(name)).parameters / 1e6, digits) == millions, source


def test_bottlenecks_have_the_layers_of_their_names() -> None:
    for name in ("resnet164", "resnet164-preact", "resnet1001-preact"):
        assert named_cost(parse_name(name)).layers == parse_name(name).depth


def test_resnet164_costs_what_resnet110_does() -> None:
    """arXiv:1603.05027, footnote 4: "ResNet-164 [...] has a similar computational complexity"."""
    ratio = named_cost(parse_name("resnet164")).multiply_adds / named_cost(parse_name("resnet110")).multiply_adds
    assert ratio == pytest.approx(1, abs=0.05)


def test_the_plain_net_of_34_layers_has_18_percent_of_vgg19() -> None:
    """arXiv:1512.03385, §3.3: 3.6 billion multiply-adds, 18 % of VGG-19's 19.6 billion; VGG-16 has 15.3 (§4.1)."""
    billions = {
        name: named_cost(parse_name(f"imagenet/{name}")).multiply_adds / 1e9 for name in ("plain34", "vgg16", "vgg19")
    }
    assert round(billions["vgg19"], 1) == 19.6
    assert round(billions["plain34"], 1) == 3.6
    # 15.35 in convolutions, which the paper truncates to 15.3, and 0.12 in linear layers.
    assert billions["vgg16"] - 0.124 == pytest.approx(15.35, abs=0.005)
    assert billions["plain34"] / billions["vgg19"] == pytest.approx(0.18, abs=0.01)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_the_layers_of_torchvisions(depth: int) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"vgg{depth}", weights=None, init_weights=False)
    ours = parse_name(f"imagenet/vgg{depth}").skeleton()
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    kinds = nn.Conv2d | nn.Linear | nn.MaxPool2d | nn.ReLU
    expected = [type(m).__name__ for m in theirs.modules() if isinstance(m, kinds)]
    assert [type(m).__name__ for m in ours.modules() if isinstance(m, kinds)] == expected


def same_values(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy values in the order of definition."""
    source, target = ours.state_dict(), theirs.state_dict()
    assert [v.shape for v in source.values()] == [v.shape for v in target.values()]
    theirs.load_state_dict(dict(zip(target, source.values(), strict=True)))


@pytest.mark.parametrize("depth", [39, 57])
def test_vovnet_is_that_of_timm(depth: int) -> None:
    """timm's modules are those of the authors, without the identity that VoVNetV2 adds."""
    ours = create(f"imagenet/vovnet{depth}").eval()
    theirs = timm.create_model(f"vovnet{depth}a").eval()
    same_values(ours, theirs)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


# Published for the authors' weights and an independent implementation (osmr/imgclsmob, table of ImageNet networks).
@pytest.mark.parametrize(("name", "parameters"), [("vovnet39", 22_600_296), ("vovnet57", 36_640_296)])
def test_vovnet_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert named_cost(parse_name(f"imagenet/{name}")).parameters == parameters


def test_slim_vovnet_has_the_parameters_of_its_table() -> None:
    """arXiv:1904.09730, Table 1, added up by hand: weights, and two parameters of each normalized channel."""
    layers = [(3, 64, 9), (64, 64, 9), (64, 128, 9)]
    inputs = 128
    for channels, outputs in ((64, 128), (80, 256), (96, 384), (112, 512)):
        layers += [(inputs, channels, 9), *[(channels, channels, 9)] * 4, (inputs + 5 * channels, outputs, 1)]
        inputs = outputs
    expected = sum(a * b * taps + 2 * b for a, b, taps in layers) + 512 * 1000 + 1000
    assert named_cost(parse_name("imagenet/vovnet27-slim")).parameters == expected


def test_slim_vovnet_by_its_table() -> None:
    """arXiv:1904.09730, Table 1: channels and outputs of the modules."""
    model = parse_name("imagenet/vovnet27-slim").skeleton()
    modules = [model.stage2, model.stage3, model.stage4, model.stage5]
    assert [len(stage) for stage in modules] == [1, 1, 1, 1]
    assert [stage[0].convs[4][0].out_channels for stage in modules] == [64, 80, 96, 112]
    assert [stage[0].concat[0].out_channels for stage in modules] == [128, 256, 384, 512]
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 27


@pytest.mark.parametrize(("name", "bc"), [("densenet22-k4", False), ("densenet22-bc-k4", True)])
def test_densenet_is_that_of_torchvision(name: str, bc: bool) -> None:
    """torchvision's network with the CIFAR stem; it has only the form with bottlenecks, so the other is written out."""
    ours = create(name, seed=2).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        if bc:
            theirs = torchvision.models.DenseNet(4, (3, 3, 3), 8, num_classes=10).double().eval()
            theirs.features.conv0 = nn.Conv2d(3, 8, 3, padding=1, bias=False).double()
            theirs.features.norm0 = theirs.features.relu0 = theirs.features.pool0 = nn.Identity()
            same_values(ours, theirs)
            expected = theirs(x)
        else:
            z = ours.conv1(x)
            for stage, transition in (
                (ours.layer1, ours.transition1),
                (ours.layer2, ours.transition2),
                (ours.layer3, None),
            ):
                for layer in stage:
                    z = torch.cat((z, layer.conv1(F.relu(layer.bn1(z)))), 1)
                if transition is not None:
                    z = F.avg_pool2d(transition.conv(F.relu(transition.bn(z))), 2)
            expected = ours.fc(F.relu(ours.bn(z)).mean((2, 3)))
    torch.testing.assert_close(ours(x), expected)


def test_highway_by_hand() -> None:
    """arXiv:1505.00387, Eq. 3, with max pooling between the stages."""
    model = create("highway19", seed=1).double()
    state = model.state_dict()
    x = z = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    def conv(key: str, value: Tensor) -> Tensor:
        weight = state[f"{key}.weight"]
        return F.conv2d(value, weight, state[f"{key}.bias"], padding=weight.shape[-1] // 2)

    for stage, layers in enumerate((5, 6, 6), 1):
        z = F.relu(conv(f"layer{stage}.0.0", z))
        for layer in range(1, layers):
            t = torch.sigmoid(conv(f"layer{stage}.{layer}.shortcut_gate", z))
            z = F.relu(conv(f"layer{stage}.{layer}.transform", z)) * t + z * (1 - t)
        z = F.max_pool2d(z, 2) if stage < 3 else z
    expected = F.linear(F.relu(conv("conv", z)).mean((2, 3)), state["fc.weight"], state["fc.bias"])
    torch.testing.assert_close(model(x), expected)
    gates = [v for key, v in state.items() if key.endswith("shortcut_gate.bias")]
    assert len(gates) == 14
    assert all((gate == -2).all() for gate in gates)
    assert named_cost(parse_name("highway19")).layers == 19  # a gate counts with its layer


FAMILIES = ["highway19", "densenet22-k4", "densenet22-bc-k4", "vovnet27-slim-width=8", "imagenet/vovnet27-slim-width=4"]
OF_2016 = [
    "resnet11-bottleneck",
    *(f"resnet11-bottleneck-{unit}" for unit in ("preact", "relu-preact", "relu-before-add", "bn-after-add")),
    "resnet8-C",
    "resnet8-shortcut=0.5-beta=0.5",
    "resnet8-exclusive-gate=-6",
    "resnet8-shortcut-gate=-6",
    "resnet8-shortcut-dropout=0.5",
]


@pytest.mark.parametrize("name", [*FAMILIES, *OF_2016])
def test_a_network_is_built_runs_trains_and_is_read_back(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = gl.build(f"{name}@init:3")
    assert model.name == f"{name}@init:3"
    assert model.network.recipe == "He initialization"
    drawn = create(name, seed=3).state_dict()
    assert all(torch.equal(v, drawn[k]) for k, v in model.state_dict().items())
    x = torch.randn(2, *model.input_shape)
    loss = model.train()(x).square().mean()
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())
    path = tmp_path / "net.safetensors"
    gl.save_checkpoint(model, path)
    again = gl.build(f"{name}@{path}")
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
    assert create(name, classes=7)(x).shape == (2, 7)


MEASURES = {
    "responses": lambda name: gl.responses(name, images=4, bn="batch"),
    "gradients": lambda name: gl.gradients(name, images=4, batch_size=4, seeds=1),
    "shatter --model": lambda name: gl.input_gradients(name, images=4, batch_size=4, points=6, lags=2, seeds=1),
}


@pytest.mark.parametrize(
    "name",
    ["highway19", "densenet22-k4", "vovnet27-slim-width=8", "resnet11-bottleneck-preact", "resnet8-shortcut-gate=-6"],
)
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_every_command_measures_them(measure, name: str) -> None:  # type: ignore[no-untyped-def]
    result = measure(f"{name}@init")
    assert result.networks == [f"{name}@init"]


def bottleneck_by_hand(model: nn.Module, unit: str, x: Tensor) -> Tensor:
    """Logits of a net with one bottleneck per stage, from Fig. 4 and the authors' code."""
    z = F.relu(model.bn1(model.conv1(x)))
    for stage, block in enumerate((model.layer1[0], model.layer2[0], model.layer3[0])):
        c, b, project = (block.conv1, block.conv2, block.conv3), (block.bn1, block.bn2, block.bn3), block.shortcut
        if unit == "preact":
            a = z if stage == 0 else F.relu(b[0](z))
            z = project(a) + c[2](F.relu(b[2](c[1](F.relu(b[1](c[0](a)))))))
            continue
        a = F.relu(z) if unit == "relu-preact" else z
        inner = c[2](F.relu(b[1](c[1](F.relu(b[0](c[0](a)))))))
        if unit == "bn-after-add":
            z = F.relu(b[2](project(a) + inner))
        elif unit == "relu-before-add":
            z = project(a) + F.relu(b[2](inner))
        else:
            z = project(a) + b[2](inner)
            z = F.relu(z) if unit == "original" else z
    if unit in ("preact", "relu-preact"):
        z = F.relu(model.last[0](z)) if unit == "preact" else F.relu(z)
    return model.fc(z.mean((2, 3)))


@pytest.mark.parametrize("unit", ["original", "bn-after-add", "relu-before-add", "relu-preact", "preact"])
def test_bottlenecks_by_hand(unit: str) -> None:
    model = create("resnet11-bottleneck" + ("" if unit == "original" else f"-{unit}"), seed=1).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                value.uniform_(0.3, 1.5)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), bottleneck_by_hand(model, unit, x))


@pytest.mark.parametrize("exclusive", [True, False])
def test_gated_shortcuts_by_hand(exclusive: bool) -> None:
    """arXiv:1603.05027, §3.1: g(x) = σ(W_g x + b_g), the shortcut times 1 − g, exclusively the branch times g."""
    name = f"resnet8-{'exclusive' if exclusive else 'shortcut'}-gate=-1"
    model = create(name, seed=1).double().eval()
    for block, size in ((model.layer1[0], 16), (model.layer2[0], 16)):
        x = torch.randn(2, size, 8, 8, dtype=torch.float64)
        gate = block.shortcut_gate
        assert (gate.bias == -1).all()
        g = torch.sigmoid(F.conv2d(x, gate.weight, gate.bias, stride=gate.stride))
        branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
        expected = F.relu((1 - g) * block.shortcut(x) + (g * branch if exclusive else branch))
        torch.testing.assert_close(block(x), expected)


def test_dropout_on_the_shortcut() -> None:
    """Half of the shortcut passes on average, in training and in evaluation."""
    block = create("resnet8-shortcut-dropout=0.5").layer1[0]
    x = torch.ones(4, 16, 32, 32)
    assert torch.equal(block.shortcut.eval()(x), 0.5 * x)
    dropped = block.shortcut.train()(x)
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert dropped.mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", ["resnet8-exclusive-gate=-6", "resnet8-shortcut-gate=0", "resnet8-C"])
def test_the_body_is_that_of_the_residual_net(name: str) -> None:
    body, changed = create("resnet8").state_dict(), create(name).state_dict()
    assert all(torch.equal(body[key], changed[key]) for key in body)


@pytest.mark.parametrize(
    "name",
    ["resnet11-bottleneck", "resnet164", "resnet164-preact", "resnet20-A-bottleneck-width=8"],
)
def test_bottlenecks_are_inferred(name: str) -> None:
    found = infer_architectures(parse_name(name).skeleton().state_dict())
    assert [architecture.name for architecture in found] == [name]


def test_gates_are_inferred_and_their_kind_is_taken_from_the_name() -> None:
    found = infer_architectures(create("resnet8-exclusive-gate=-3").state_dict())
    assert [architecture.name for architecture in found] == ["resnet8-shortcut-gate=-6", "resnet8-exclusive-gate=-6"]
    assert parse_name("resnet8-exclusive-gate=-3").shown in found
