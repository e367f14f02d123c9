"""`gl.signal` on named networks: the numbers of the probe, seeds, batches, and theory."""

import pytest
import torch

import gradlab as gl


def test_equals_the_probe_in_an_explicit_loop() -> None:
    found = gl.signal("resnet20-preact@init", images=32, batch_size=16).frame
    model = gl.build("resnet20-preact@init")
    with gl.batch_statistics(model), gl.BlockSignal(model) as probe:
        for images, labels in gl.batches("cifar10-sample", 16, model=model, images=32):
            torch.nn.functional.cross_entropy(model(images), labels).backward()
    expected = probe.result().frame
    for column in ("stream_std", "branch_std", "ratio", "cosine", "stream_grad_rms"):
        assert found[column].to_numpy() == pytest.approx(expected[column].to_numpy(), rel=1e-6)


def test_running_statistics_give_the_gradient_of_the_mean_over_all_images() -> None:
    whole, parts = (gl.signal("resnet20@init", images=24, batch_size=size, bn="eval").frame for size in (24, 8))
    for column in ("stream_std", "ratio", "stream_grad_rms"):
        assert whole[column].to_numpy() == pytest.approx(parts[column].to_numpy(), rel=1e-5)


def test_theory_is_given_at_the_blocks_of_a_preactivation_net() -> None:
    frame = gl.signal("resnet20-preact-width=32@init", images=64, seeds=3).frame
    assert sorted(frame["seed"].unique()) == [0, 1, 2]
    means = frame.groupby("index")[["stream_total_std", "theory"]].mean()
    assert (means["stream_total_std"] ** 2 / means["theory"] ** 2).to_numpy() == pytest.approx(1, abs=0.2)


def test_trained_weights_and_running_statistics_have_no_theory() -> None:
    assert gl.signal("resnet20@init", images=8, bn="eval").frame["theory"].isna().all()


def test_a_user_module_on_noise() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), *(torch.nn.Linear(3072, 3072 if n < 2 else 5) for n in range(3)))
    result = gl.signal(model, "noise", images=8, loss="sum")
    assert list(result.frame["block"]) == ["1", "2", "3"]
    assert result.frame["branch_std"].isna().all()
    assert any("the parts that repeat" in note for note in result.notes)


def test_a_network_without_blocks_is_named() -> None:
    with pytest.raises(gl.GradlabError, match=r"^Sequential has no block that is seen: a block is an addition"):
        gl.signal(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)), images=2)


def test_an_invalid_request_is_refused() -> None:
    with pytest.raises(gl.UsageError, match="seeds must be from 1 to 10,000; got 0"):
        gl.signal("resnet20@init", seeds=0)


def test_the_rank_of_tokens_is_in_frame_and_table() -> None:
    result = gl.signal("gpt2-width=32-context=8@init", images=4, batch_size=4, tokens=True)
    model = gl.build("gpt2-width=32-context=8@init")
    found = []
    model.blocks[-1].register_forward_hook(lambda module, args, x: found.append(x.detach().double()))
    ((tokens, _),) = gl.batches("tokens", 4, model=model, images=4)
    model(tokens)
    squares = torch.linalg.svdvals(found[0]).square()
    rank = (squares.sum(1).square() / squares.square().sum(1)).mean().item()
    assert result.frame["token_rank"].iloc[-1] == pytest.approx(rank, rel=1e-5)
    assert result.summary()["token rank, last"].item() == pytest.approx(rank, rel=1e-5)
