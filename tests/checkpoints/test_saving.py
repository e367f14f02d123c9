"""What safetensors refuses, shared memory above all, is written and read back equal; the rest is refused by name."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import gradlab as gl
from gradlab.checkpoints import read_checkpoint, save_checkpoint, weights_digest
from gradlab.errors import GradlabError

NETS = """
import torch
from torch import nn


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        values = torch.arange(32.0).view(8, 4)
        self.register_buffer("a", values[:4])
        self.register_buffer("b", values[2:])
        self.register_buffer("turned", values.T)
        self.register_buffer("expanded", torch.full((1,), 3.0).expand(4, 4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x)


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def transposed():
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.detach().T)
    return model


def twice():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


def nested():
    return nn.ModuleDict({"model": twice()})


def views():
    return Views()


def odd():
    model = nn.Linear(4, 0)
    model.register_buffer("scalar", torch.tensor(2.0))
    model.register_buffer("wide", torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))
    model.register_buffer("bf16", torch.ones(3, dtype=torch.bfloat16))
    model.register_buffer("conjugate", torch.ones(3, dtype=torch.complex64).mul(1j).conj())
    return model
"""


@pytest.mark.parametrize("name", ["tied", "transposed", "twice", "nested", "views", "odd"])
def test_shared_memory_is_written_and_read_back_equal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared_of_mine.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import shared_of_mine

    model = getattr(shared_of_mine, name)()
    path = tmp_path / f"{name}.safetensors"
    save_checkpoint(model, path)
    read, _ = read_checkpoint(path)
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(value, read[key]) for key, value in model.state_dict().items())
    assert weights_digest(gl.build(f"shared_of_mine:{name}@{path}")) == weights_digest(model)


def test_one_s_own_network_round_trips_whatever_wraps_it(tmp_path: Path) -> None:
    model = gl.build("resnet8@init:5")
    path = tmp_path / "w.safetensors"
    for wrapped in (torch.compile(model), nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model)):
        save_checkpoint(wrapped, path)
        assert weights_digest(gl.build(f"resnet8@{path}")) == weights_digest(model)


class Remembering(nn.Linear):
    def get_extra_state(self) -> object:
        return {"seen": 3}

    def set_extra_state(self, state: object) -> None:
        self.seen = state


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.LazyLinear(3), "weight cannot be written as safetensors: it is not initialized"),
        (nn.Linear(3, 3, device="meta"), "weight .* on the meta device"),
        (Remembering(3, 3), "_extra_state .* no tensor but dict"),
    ],
)
def test_what_cannot_be_written_is_named(model: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match=message):
        save_checkpoint(model, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_a_flipped_bit_in_our_own_file_is_refused(tmp_path: Path, place: float) -> None:
    path = tmp_path / "w.safetensors"
    save_checkpoint(torch.nn.Linear(40, 30), path)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + int(place * (len(content) - start))] ^= 1
    path.write_bytes(content)
    with pytest.raises(gl.GradlabError, match="do not have the sha256"):
        read_checkpoint(path)


def test_safetensors_of_other_programs_need_no_digest(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    safetensors.torch.save_file({"fc.weight": weight}, tmp_path / "w.safetensors")
    state, _ = read_checkpoint(tmp_path / "w.safetensors")
    torch.testing.assert_close(state["fc.weight"], weight, rtol=0, atol=0)
