"""Training on sequences of tokens: the split, a chain that is learnt, and what cannot be trained."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.training.tokens import load_sequences

NAME = "gpt1-width=32-heads=2-vocab=16-context=16"


def test_training_and_test_sequences_are_apart(tmp_path: Path) -> None:
    train, test = load_sequences("tokens:markov", 16, 16)
    assert (len(train), len(test)) == (4096, 256)
    assert train.tokens.shape == (4096, 16)
    assert torch.equal(train.tokens[:, 1:], train.labels[:, :-1])
    kept, held = load_sequences("tokens:markov", 16, 16, validation=100)
    assert torch.equal(held.tokens, train.tokens[-100:])
    assert len(kept) == 3996
    (tmp_path / "text.txt").write_bytes(bytes(range(16)) * 40)
    train, test = load_sequences(f"text:{tmp_path}/text.txt", 8, 16)
    assert (len(train), len(test)) == (72, 7)
    assert int(test.tokens[0, 0]) == 72 * 8 % 16


def test_a_chain_is_learnt(tmp_path: Path) -> None:
    """From ln 16 to near the entropy of the chain, at most 1.213 nats, at which half of the tokens are told."""
    recipe = gl.Recipe().changed(iterations=160, batch_size=64)
    result = gl.train(NAME, "tokens:markov", recipe=recipe, out=tmp_path / "run", test_every=80)
    frame = result.frame
    assert 1 < frame["test_loss"].dropna().iloc[-1] < 1.4
    assert frame["test_error"].dropna().iloc[-1] < 0.6
    (row,) = result.summary().to_dict("records")
    last = frame["test_loss"].dropna().iloc[-1]
    assert row["perplexity"] == pytest.approx(math.exp(last))
    assert "test error (%)" not in row
    ax = result.plot()
    assert ax.get_ylabel() == "loss (nats)"
    assert ax.lines[1].get_ydata()[-1] == last
    model = gl.build(f"{NAME}@{tmp_path / 'run' / 'checkpoint.pt'}")
    measured = gl.responses(model, "tokens:markov", images=32)
    facts = measured.record["networks"][0]
    assert facts["accuracy"] > 0.4
    assert facts["loss"] < 1.5
    assert not facts["near_chance"]


def test_a_network_of_transformers_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    configuration = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=16, n_positions=16)
    path.write_text(json.dumps(configuration.to_dict() | {"architectures": ["GPT2LMHeadModel"]}))
    recipe = gl.Recipe().changed(iterations=5, batch_size=16)
    result = gl.train(f"transformers/{path}", "tokens:markov", recipe=recipe, out=tmp_path / "run")
    assert result.frame["test_loss"].notna().any()


def test_what_cannot_be_trained_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cifar10 holds images, and the network takes tokens"):
        gl.train(NAME, out=tmp_path / "a")
    with pytest.raises(UsageError, match="cannot train on 'tokens'"):
        gl.train("resnet8", "tokens", out=tmp_path / "b")
    (tmp_path / "short.txt").write_bytes(bytes(20))
    with pytest.raises(UsageError, match="too few to train and test on"):
        gl.train(NAME, f"text:{tmp_path}/short.txt", out=tmp_path / "c")
    with pytest.raises(UsageError, match="5,000 of 4,096 training sequences cannot be held out"):
        gl.train(NAME, "tokens", recipe=gl.Recipe(validation=5000), out=tmp_path / "d")
