"""Integration: other people's trained networks on the real CIFAR-10, where both are at hand.

The error rates were measured once with independent code; the files come with the torch.hub names.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.data.images import data_folder

FILES = {
    "resnet20": ("resnet20-12fca82f.th", 8.27, 0.372661),
    "resnet56": ("resnet56-4bfd9763.th", 6.61, 0.345829),
    "plain20": ("caffe-plain20.pth", 9.91, 0.381508),
}


@pytest.mark.thorough
@pytest.mark.skipif(not (data_folder() / "cifar10.npz").exists(), reason="cifar10.npz is not at hand")
@pytest.mark.parametrize("name", FILES)
def test_error_on_the_whole_test_set(name: str, checkpoint: Callable[[str], Path]) -> None:
    file, error, loss = FILES[name]
    facts = gl.responses(f"{name}@{checkpoint(file)}", "cifar10").record["networks"][0]
    assert 100 * (1 - facts["accuracy"]) == pytest.approx(error, abs=0.02)
    assert facts["loss"] == pytest.approx(loss, abs=2e-5)


@pytest.mark.parametrize("name", FILES)
def test_responses_of_trained_networks_by_brute_force(name: str, checkpoint: Callable[[str], Path]) -> None:
    """A float32 forward pass, every BN output copied at once and measured by numpy in float64; and what it answers."""
    spec = f"{name}@{checkpoint(FILES[name][0])}"
    found = gl.responses(spec, images=200)
    model = gl.build(spec)
    right, losses = [], []
    kept: list[list[np.ndarray]] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            kept.append([])
            module.register_forward_hook(lambda m, args, out, to=kept[-1]: to.append(out.double().numpy().ravel()))
    with torch.no_grad():
        for x, y in gl.batches("cifar10-sample", 50, model, images=200):
            shares = torch.log_softmax(model(x).double(), 1)
            right.append((shares.argmax(1) == y).double())
            losses.append(-shares[torch.arange(50), y])
    facts = found.record["networks"][0]
    assert facts["accuracy"] == pytest.approx(float(torch.cat(right).mean()))
    assert facts["loss"] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
    np.testing.assert_allclose(found.frame["std"], [np.concatenate(parts).std() for parts in kept], rtol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_prediction_agrees_with_batch_statistics(name: str, checkpoint: Callable[[str], Path]) -> None:
    frame = gl.responses(f"{name}@{checkpoint(FILES[name][0])}", images=256, batch_size=128, bn="batch").frame
    np.testing.assert_allclose(frame["predicted_std"], frame["std"], rtol=1e-3)


def test_a_plain_name_for_residual_weights_is_flagged(checkpoint: Callable[[str], Path]) -> None:
    path = checkpoint(FILES["resnet20"][0])
    notes = gl.responses([f"resnet20@{path}", f"plain20@{path}"], images=500).notes
    assert [note.split(":")[0] for note in notes if "near chance" in note] == ["plain20@resnet20-12fca82f.th"]


def test_digests_are_known(checkpoint: Callable[[str], Path]) -> None:
    for name, (file, _, _) in FILES.items():
        network = gl.build(f"{name}@{checkpoint(file)}").network
        assert network.recipe is not None
        assert network.normalization is not None
