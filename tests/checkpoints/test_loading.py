"""Weights in and out: every usual format, and every way a file can be wrong."""

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

import gradlab as gl
from gradlab.checkpoints import bare, file_digest, own_names, read_checkpoint, weights_digest
from gradlab.errors import GradlabError, UsageError
from gradlab.models import create, infer_architectures, parse_name


def altered(name: str, seed: int = 4) -> torch.nn.Module:
    """A network whose every tensor differs from what a fresh one has."""
    model = create(name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator))
    return model


def fits(path: Path) -> list[str]:
    """The names of ours that the keys and shapes of a file fit."""
    state, _ = read_checkpoint(path)
    return [architecture.name for architecture in infer_architectures(own_names(bare(state)))]


def as_others_write(state: dict[str, torch.Tensor], style: str) -> object:
    renamed = {k.replace("fc.", "linear."): v for k, v in state.items() if "num_batches" not in k}
    if style == "akamaster":
        return {"best_prec1": 91.7, "state_dict": {f"module.{k}": v for k, v in renamed.items()}}
    if style == "compiled":
        return {"model": {f"_orig_mod.{k}": v for k, v in state.items()}, "epoch": 3}
    if style == "compiled and parallel":
        return {"net": {f"module._orig_mod.{k}": v for k, v in state.items()}}
    if style == "torchvision":
        return {k.replace("shortcut", "downsample"): v for k, v in state.items()}
    return state


@pytest.mark.parametrize("style", ["plain", "akamaster", "compiled", "compiled and parallel", "torchvision"])
@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet20-B", "resnet8-C", "imagenet/resnet18-B"])
def test_state_dicts_as_others_write_them(name: str, style: str, tmp_path: Path) -> None:
    source = altered(name)
    path = tmp_path / "weights.th"
    torch.save(as_others_write(source.state_dict(), style), path)
    model = gl.build(f"{name}@{path}")
    assert not model.training
    expected = source.state_dict()
    for key, value in model.state_dict().items():
        assert "num_batches" in key or torch.equal(value, expected[key]), key
    assert name in fits(path)


@pytest.mark.parametrize("suffix", ["pt", "pth", "th"])
@pytest.mark.parametrize("legacy", [True, False])
def test_torch_formats(suffix: str, legacy: bool, tmp_path: Path) -> None:
    source = altered("resnet8")
    path = tmp_path / f"weights.{suffix}"
    torch.save(source.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(gl.build(f"resnet8@{path}").conv1.weight, source.conv1.weight)


def test_own_format_keeps_its_record(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    gl.save_checkpoint(altered("resnet8"), path, {"recipe": "mine", "normalization": "mean-image:255"})
    model = gl.build(f"resnet8@{path}")
    assert model.network.recipe == "mine"
    assert str(model.normalization) == "mean-image:255"
    assert model.network.file_sha256 == file_digest(path)
    assert model.name == "resnet8@mine.safetensors"


def test_head_and_width_come_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cifar100.pt"
    torch.save(create("resnet8", classes=100).state_dict(), path)
    assert gl.build(f"resnet8@{path}")(torch.zeros(1, 3, 32, 32)).shape == (1, 100)
    wide = tmp_path / "wide.pt"
    torch.save(create("resnet8-width=24").state_dict(), wide)
    assert fits(wide) == ["resnet8-width=24", "plain8-width=24"]
    with pytest.raises(UsageError, match=r"holds resnet8-width=24 or plain8-width=24, not resnet8$"):
        gl.build(f"resnet8@{wide}")


@pytest.mark.parametrize("name", ["resnet14", "resnet14-B", "resnet14-C", "imagenet/resnet34", "imagenet/resnet50"])
def test_architecture_is_inferred(name: str) -> None:
    found = infer_architectures(create(name).state_dict())
    assert parse_name(name) in found
    plain = name.replace("resnet", "plain")
    assert [a.name for a in found] == ([name, plain] if name in ("resnet14", "imagenet/resnet34") else [name])


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/squeezenet1_1", "timm/regnety_002"])
def test_other_networks_are_none_of_ours(name: str) -> None:
    found = infer_architectures(create(name).state_dict())
    assert found == [] or name == "torchvision/resnet18"


def test_a_plain_net_and_its_residual_net_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "which.pt"
    torch.save(create("plain20").state_dict(), path)
    assert fits(path) == ["resnet20", "plain20"]


@pytest.mark.parametrize(
    ("asked", "held", "message"),
    [
        ("resnet20", "resnet56", "holds resnet56 or plain56, not resnet20"),
        ("plain20", "resnet20-B", "holds resnet20-B, not plain20"),
        ("resnet20", "torchvision/squeezenet1_1", "not a resnet20"),
        ("torchvision/resnet18", "resnet20", "does not fit"),
        ("imagenet/resnet50", "torchvision/resnet50", "torchvision/resnet50@"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(asked: str, held: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(create(held).state_dict(), path)
    with pytest.raises(UsageError, match=message):
        gl.build(f"{asked}@{path}")


class Exploit:
    """Unpickled with arbitrary code allowed, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(how: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "it-ran"
    content = {"state_dict": create("resnet8").state_dict(), "extra": Exploit(trace)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(GradlabError, match=r"is refused: .*pickle|damaged"):
        gl.build(f"resnet8@{path}")
    assert not trace.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists(), "the file would have run code"


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    state = create("resnet8").state_dict()
    safetensors.torch.save_file(state, path) if name.endswith("tensors") else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(GradlabError, match=rf"{name} is (damaged|no checkpoint)"):
        gl.build(f"resnet8@{path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, I am a text file\n", "no checkpoint"),
        (pickle.dumps({"a": 1}), "holds no state dict|damaged|refused"),
    ],
)
def test_files_that_are_no_checkpoints(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.pth"
    path.write_bytes(content)
    with pytest.raises(GradlabError, match=message):
        gl.build(f"resnet8@{path}")


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        gl.build(f"resnet8@{tmp_path / 'missing.pth'}")
    with pytest.raises(UsageError, match="is a folder"):
        gl.build(f"resnet8@{tmp_path}")
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        gl.save_checkpoint(create("resnet8"), tmp_path / "w.pth")


def test_a_record_that_names_another_network(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    gl.save_checkpoint(create("plain8"), path, {"network": "plain8"})
    with pytest.raises(UsageError, match="holds plain8, as its record says, not resnet8"):
        gl.build(f"resnet8@{path}")
    gl.save_checkpoint(create("plain8"), path, {"normalization": 5})
    with pytest.raises(GradlabError, match="damaged record"):
        gl.build(f"plain8@{path}")


def test_an_index_of_several_files_is_refused_as_one(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"weight_map": {"conv1.weight": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(UsageError, match=r"index.json lists the parts .* save the whole state_dict\(\) in one"):
        gl.build(f"resnet8@{path}")


def test_odd_files_end(tmp_path: Path) -> None:
    ring: dict[str, object] = {}
    ring["model"] = ring
    torch.save(ring, tmp_path / "ring.pth")
    with pytest.raises(GradlabError, match="holds no state dict"):
        gl.build(f"resnet8@{tmp_path / 'ring.pth'}")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        gl.build(f"resnet8@{tmp_path / 'pipe'}")
    state = create("resnet8").state_dict()
    torch.save({"model": state, "epoch": torch.tensor(3)}, tmp_path / "wrapped.pt")
    assert torch.equal(gl.build(f"resnet8@{tmp_path / 'wrapped.pt'}").conv1.weight, state["conv1.weight"])
    torch.save({k: v.to(torch.complex64) for k, v in state.items()}, tmp_path / "complex.pt")
    with pytest.raises(UsageError, match="is complex"):
        gl.build(f"resnet8@{tmp_path / 'complex.pt'}")
    state["fc.weight"] = torch.tensor(1.0)
    torch.save(state, tmp_path / "scalar.pt")
    with pytest.raises(UsageError, match="none of our networks"):
        gl.build(f"resnet8@{tmp_path / 'scalar.pt'}")


def test_digest_depends_on_every_value() -> None:
    a, b = create("resnet8"), create("resnet8")
    assert weights_digest(a) == weights_digest(b)
    with torch.no_grad():
        b.layer3[0].bn2.running_var[5] += 1e-6
    assert weights_digest(a) != weights_digest(b)


def test_key_names_of_others() -> None:
    names = own_names({"linear.weight": torch.ones(1), "layer2.0.downsample.0.weight": torch.ones(1)})
    assert list(names) == ["fc.weight", "layer2.0.shortcut.0.weight"]
