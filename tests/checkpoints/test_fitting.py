"""Names in files held against a network's own: prefixes, heads of other sizes, and what is said of a misfit."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import gradlab as gl
from gradlab.checkpoints import weights_digest
from gradlab.errors import GradlabError, UsageError
from gradlab.models import create

NETS = """
import torch
from torch import nn


def body():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


def parts():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


class Own(nn.Module):
    def __init__(self, path):
        super().__init__()
        self.first, _, rest = path.partition(".")
        setattr(self, self.first, Own(rest) if rest else parts())

    def forward(self, x):
        return getattr(self, self.first)(x)


class Counting(Own):
    def __init__(self):
        super().__init__("module")
        self.register_buffer("n_averaged", torch.tensor(7))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x))


def backbone(): return Own("backbone")
def model(): return Own("model")
def net(): return Own("net")
def module(): return Own("module")
def orig_mod(): return Own("_orig_mod")
def model_model(): return Own("model.model")
def module_model_net(): return Own("module.model.net")
def counting(): return Counting()
def tied(): return Tied()
def compiled(): return torch.compile(parts())
def lazy(): return body()
"""
OWN = ["parts", "backbone", "model", "net", "module", "orig_mod", "model_model", "module_model_net", "counting"]


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nets_of_mine.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import nets_of_mine

    return nets_of_mine


def altered(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * place + 0.5)
    return model


def under(prefix: str, model: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in model.state_dict().items()}


WRITTEN = {
    "as it is": lambda m: m.state_dict(),
    "averaged": lambda m: AveragedModel(m).state_dict(),
    "averaged, wrapped": lambda m: {"ema": AveragedModel(m).state_dict()},
    "parallel": lambda m: under("module.", m),
    "compiled": lambda m: under("_orig_mod.", m),
    "averaged of compiled": lambda m: AveragedModel(torch.compile(m)).state_dict(),
    "averaged of parallel": lambda m: {"n_averaged": torch.tensor(3), **under("module.module.", m)},
    "lightning": lambda m: {"state_dict": under("model.", m), "epoch": 1},
    "lightning, parallel, compiled": lambda m: {"state_dict": under("net.module._orig_mod.", m)},
    "prefix of one's own": lambda m: under("encoder.q.", m),
}


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("name", OWN)
def test_whatever_the_only_child_is_called(name: str, written: str, nets) -> None:
    model = altered(getattr(nets, name)())
    torch.save(WRITTEN[written](model), "w.pth")
    loaded = gl.build(f"nets_of_mine:{name}@w.pth")
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_prefixes_that_the_file_lacks_and_traces_of_wrappers(nets) -> None:
    model = altered(nets.parts())
    torch.save(model.state_dict(), "w.pth")
    for name in ("compiled", "model", "module_model_net"):
        loaded = gl.build(f"nets_of_mine:{name}@w.pth")
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    model[0] = torch.compile(model[0])
    torch.save(under("module.", model), "regions.pth")
    assert any("._orig_mod." in key for key in torch.load("regions.pth"))
    loaded = gl.build("nets_of_mine:parts@regions.pth")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("torchvision/resnet18", ["fc"]),
        ("torchvision/squeezenet1_1", ["classifier.1"]),
        ("torchvision/mobilenet_v3_small", ["classifier.3"]),
        ("torchvision/googlenet", ["fc", "aux1.fc2", "aux2.fc2"]),
        pytest.param("torchvision/vit_b_32", ["heads.head"], marks=pytest.mark.thorough),
        ("timm/vit_tiny_patch16_224", ["head"]),
        ("timm/convnext_atto", ["head.fc"]),
        ("timm/resnet10t", ["fc"]),
        ("timm/deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
    ],
)
def test_fine_tuned_networks_have_the_classes_of_their_head(name: str, heads: list[str], tmp_path: Path) -> None:
    source = create(name, classes=7, seed=3)
    torch.save({"state_dict": under("module.", source)}, tmp_path / "tuned.pth")
    model = gl.build(f"{name}@{tmp_path / 'tuned.pth'}")
    assert model.network.classes == 7
    assert model.network.to_dict()["classes"] == 7
    assert weights_digest(model) == weights_digest(source)
    assert all(model.get_submodule(head).weight.shape[0] == 7 for head in heads)


def test_training_heads_that_torchvision_drops(tmp_path: Path) -> None:
    from torchvision.models import googlenet

    source = googlenet(num_classes=5, aux_logits=False, init_weights=False)
    torch.save(source.state_dict(), tmp_path / "tuned.pth")
    model = gl.build(f"torchvision/googlenet@{tmp_path / 'tuned.pth'}")
    assert (model.network.classes, model.aux1) == (5, None)


def test_a_head_is_all_that_may_have_another_size(tmp_path: Path) -> None:
    values = create("torchvision/resnet18", classes=7).state_dict()
    values["conv1.weight"] = values["conv1.weight"][:, :1]
    torch.save(values, tmp_path / "grey.pth")
    message = (
        r"conv1\.weight is \(64, 1, 7, 7\) and not \(64, 3, 7, 7\), fc\.weight is \(7, 512\) and not \(1000, 512\)"
    )
    with pytest.raises(UsageError, match=message):
        gl.build(f"torchvision/resnet18@{tmp_path / 'grey.pth'}")


LOST = ("conv1", "layer2.0.conv2", "layer2", "fc")
LARGE = {"imagenet/resnet18": "conv1", "torchvision/resnet18": "layer2.0.conv2", "timm/resnet10t": "layer2"}
"""Each with what it loses here; it loses the others in the thorough tests."""


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        *[("resnet8", lost) for lost in LOST],
        *[
            pytest.param(name, lost, marks=() if lost == here else pytest.mark.thorough)
            for name, here in LARGE.items()
            for lost in LOST
        ],
    ],
)
def test_missing_layers_are_named_and_others_are_not(name: str, lost: str, tmp_path: Path) -> None:
    values = create(name).state_dict()
    gone = [key for key in values if key.startswith(f"{lost}.")]
    torch.save({f"module.{k}": v for k, v in values.items() if k not in gone}, tmp_path / "w.pth")
    if not gone:
        return
    with pytest.raises(UsageError) as caught:
        gl.build(f"{name}@{tmp_path / 'w.pth'}")
    message = str(caught.value).replace(str(tmp_path), "")
    assert gone[0] in message
    words = [word.strip(".,;:") for word in message.split()]
    assert not [key for key in values if key not in gone and key in words]
    assert len(str(caught.value)) <= 500
    assert "\n" not in str(caught.value)


def test_extra_names_are_named(tmp_path: Path) -> None:
    for name in ("resnet8", "torchvision/resnet18"):
        torch.save({**create(name).state_dict(), "aux.weight": torch.ones(2, 2)}, tmp_path / "w.pth")
        with pytest.raises(UsageError, match=rf"does not fit {name}: it has aux\.weight too$"):
            gl.build(f"{name}@{tmp_path / 'w.pth'}")


def test_whole_numbers_are_codes_of_a_quantization_and_no_weights(tmp_path: Path) -> None:
    state = create("resnet8").state_dict()
    codes = {key: (100 * value).to(torch.int8) if value.ndim > 1 else value for key, value in state.items()}
    torch.save(codes, tmp_path / "codes.pth")
    with pytest.raises(GradlabError, match=r"conv1\.weight is int8 and not float32"):
        gl.build(f"resnet8@{tmp_path / 'codes.pth'}")


def test_tied_weights_may_be_there_once_and_have_to_agree(nets) -> None:
    model = altered(nets.tied())
    values = model.state_dict()
    torch.save({"head.weight": values["head.weight"]}, "once.pth")
    loaded = gl.build("nets_of_mine:tied@once.pth")
    assert torch.equal(loaded.embed.weight, values["head.weight"])
    assert loaded.embed.weight is loaded.head.weight
    torch.save({**values, "head.weight": values["head.weight"] + 1}, "apart.pth")
    with pytest.raises(UsageError, match=r"embed\.weight and head\.weight differ and are one in the network"):
        gl.build("nets_of_mine:tied@apart.pth")


def test_layers_without_shapes_take_those_of_the_file(nets) -> None:
    source = altered(nets.parts())
    torch.save(source.state_dict(), "w.pth")
    assert torch.equal(gl.build("nets_of_mine:lazy@w.pth")[4].weight, source[4].weight)
    with pytest.raises(UsageError, match=r"4\.weight is not initialized before the first forward pass"):
        gl.build("nets_of_mine:lazy@init")


@pytest.mark.parametrize("long", [3, 300])
def test_errors_are_one_short_sentence(long: int, tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30) / ("folder" * 20)
    folder.mkdir(parents=True)
    values = {f"{'block.' * long}{n}.weight": torch.ones(2, 2) for n in range(40)} | {"a.b": torch.ones(1)}
    contents: list[object] = [values, {"generator": values, "discriminator": values}, {"e" * long: 1, "epoch": 2}, [1]]
    for content in contents:
        torch.save(content, folder / "w.pth")
        for name in ("resnet8", "torchvision/resnet18"):
            for key in ("", ":emma", ":generator"):
                with pytest.raises(GradlabError) as caught:
                    gl.build(f"{name}@{folder / 'w.pth'}{key}")
                assert len(str(caught.value)) <= 500, str(caught.value)
                assert "\n" not in str(caught.value)
