"""Data sets of tokens: seeded, of the network's shape and vocabulary, and the bytes of files."""

import math
from pathlib import Path

import pytest
import torch

import gradlab as gl
from gradlab.data.datasets import load_dataset
from gradlab.data.tokens import SUCCESSORS
from gradlab.errors import GradlabError, UsageError


def test_uniform_tokens_are_uniform_and_seeded() -> None:
    data = load_dataset("tokens", 3, shape=(100,), vocabulary=5)
    tokens, following = data.read(0, 200, (100,))
    assert tokens.shape == following.shape == (200, 100)
    assert tokens.dtype == torch.long
    assert torch.equal(tokens[:, 1:], following[:, :-1])
    counts = torch.bincount(tokens.flatten(), minlength=5).double()
    expected = tokens.numel() / 5
    assert float(((counts - expected).square() / expected).sum()) < 18.5  # chi-square, 4 degrees, 1 in 1,000
    again, _ = load_dataset("tokens", 3, shape=(100,), vocabulary=5).read(150, 160, (100,))
    assert torch.equal(again, tokens[150:160]), "a sequence depends on the seed and its place alone"
    other, _ = load_dataset("tokens", 4, shape=(100,), vocabulary=5).read(0, 10, (100,))
    assert not torch.equal(other, tokens[:10])


def test_markov_tokens_have_four_successors_and_their_entropy() -> None:
    data = load_dataset("tokens:markov", 1, shape=(256,), vocabulary=64)
    tokens, following = data.read(0, 256, (256,))
    counts = torch.zeros(64, 64, dtype=torch.float64)
    counts.index_put_((tokens.flatten(), following.flatten()), torch.ones(1, dtype=torch.float64), accumulate=True)
    assert ((counts > 0).sum(1) <= 4).all()
    # Of tokens whose four successors are different the entropy of the next is that of the chances.
    rows = counts[(counts > 0).sum(1) == 4]
    chances = rows / rows.sum(1, keepdim=True)
    entropy = -(torch.special.xlogy(chances, chances).sum(1) * rows.sum(1)).sum() / rows.sum()
    assert float(entropy) == pytest.approx(-sum(p * math.log(p) for p in SUCCESSORS), rel=0.01)
    assert float(entropy) == pytest.approx(1.213, rel=0.01)


def test_text_is_the_bytes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"  # a name that would otherwise be one of arrays
    content = "Häuser und Bäume, ".encode() * 5
    path.write_bytes(content)
    data = load_dataset(f"text:{path}", shape=(16,), vocabulary=256)
    tokens, following = data.read(0, len(data), (16,))
    assert len(data) == (len(content) - 1) // 16
    assert bytes(tokens.flatten().tolist()) == content[: 16 * len(data)]
    assert bytes(following.flatten().tolist()) == content[1 : 16 * len(data) + 1]


def test_text_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"abc")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UsageError, match="is not a file"):
        load_dataset(f"text:{tmp_path}/none.txt")
    with pytest.raises(UsageError, match="is not a file"):
        load_dataset("text:")
    with pytest.raises(GradlabError, match="has 3 bytes, and a sequence takes 129"):
        load_dataset(f"text:{tmp_path}/short.txt")
    with pytest.raises(GradlabError, match="is empty"):
        load_dataset(f"text:{tmp_path}/empty.txt")
    with pytest.raises(UsageError, match="has the byte 99, and the network takes tokens below 50"):
        load_dataset(f"text:{tmp_path}/short.txt", shape=(2,), vocabulary=50)
    with pytest.raises(UsageError, match="a seed of tokens is from 0"):
        load_dataset("tokens", -1)


def test_batches_of_tokens_fit_the_network() -> None:
    model = gl.build("gpt1-width=16-vocab=7-context=12@init")
    stream = gl.batches("tokens:markov", 4, model=model, images=6)
    sizes = [(tokens.shape, labels.shape) for tokens, labels in stream]
    assert sizes == [((4, 12), (4, 12)), ((2, 12), (2, 12))]
    assert stream.normalization is None
    assert all(int(tokens.max()) < 7 and tokens.dtype == torch.long for tokens, _ in stream)
    assert stream.dataset.classes == 7
    assert gl.batches(model=model).dataset.name == "tokens", "the default where the default is of images"
    with pytest.raises(UsageError, match="noise holds images, and gpt1-width=16-vocab=7-context=12@init takes tokens"):
        gl.batches("noise", model=model)
    with pytest.raises(UsageError, match=r"tokens holds tokens, and resnet8@init takes inputs of shape \(3, 32, 32\)"):
        gl.batches("tokens", model=gl.build("resnet8@init"))
