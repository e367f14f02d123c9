"""`gl.attention` on named networks equals the probe, and names networks without attention."""

import pytest
import torch

import gradlab as gl


def test_equals_the_probe_in_an_explicit_loop() -> None:
    found = gl.attention("vit2-width=64@init", images=4, batch_size=2, rows=None).frame
    model = gl.build("vit2-width=64@init").eval()
    with gl.AttentionStatistics(model, rows=None) as probe, torch.no_grad():
        for images, _ in gl.batches("cifar10-sample", 4, model=model, images=4):
            model(images)
    expected = probe.result().frame
    for column in ("entropy", "relative_entropy", "largest_logit"):
        assert found[column].to_numpy() == pytest.approx(expected[column].to_numpy(), rel=1e-5)
    assert list(found["layer"].unique()) == ["blocks.0.attn", "blocks.1.attn"]


def test_a_network_without_attention_is_an_error() -> None:
    with pytest.raises(gl.GradlabError, match=r"^resnet20@init has no attention that can be measured") as refused:
        gl.attention("resnet20@init", images=2)
    assert "`with` block" not in str(refused.value)
