"""Every checkpoint that lies is refused in a sentence, in bounded time and memory; one by one, by name."""

from pathlib import Path

import pytest
import torch

import gradlab as gl
from fuzz.checkpoint_files import FILES, state
from fuzz.limits import refusal


@pytest.mark.parametrize("name", FILES)
def test_it_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    expected = FILES[name](tmp_path / "w.pth")
    (path,) = tmp_path.iterdir()
    text = refusal(lambda: gl.build(f"resnet8@{path}"), path.stat().st_size)
    assert expected in text
    assert path.name in text


def test_what_is_odd_beside_the_weights_does_not_matter(tmp_path: Path) -> None:
    """Small expanded buffers, tied weights, optimizers' states, sparse tensors elsewhere, counters, texts."""
    own = state()
    content = {
        "model": own,
        "ema": {k: v.clone() for k, v in own.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.eye(3).to_sparse()}}, "param_groups": [{"lr": 0.1}]},
        "args": {"names": ["a", "b"], "lr": 1e-3},
        "buffer": torch.arange(5).expand(7, 5),
        "random": torch.get_rng_state(),
        "raw": b"bytes",
    }
    for old_format in (False, True):
        path = tmp_path / f"{old_format}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=not old_format)
        assert torch.equal(gl.build(f"resnet8@{path}").conv1.weight, own["conv1.weight"])


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float64", "uint16", "uint32", "uint64", "float8_e4m3fn", "bool", "complex64"]
)
def test_every_dtype_is_counted_by_its_size(dtype: str, tmp_path: Path) -> None:
    value = torch.ones(3, 4).to(getattr(torch, dtype))
    torch.save({"w": value, "part": value[1:, 2:], "turned": value.t()}, tmp_path / "w.pt")
    content, _ = gl.checkpoints.read_content(tmp_path / "w.pt")
    assert content["w"].dtype == value.dtype  # type: ignore[index]
