"""Two processes that share measurements find what one finds; `oracles.spreading` is what each of them runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from forked_command import environments_of_ranks, run_modules
from oracles.spreading import ACTIVATIONS, COMPARED, GPT, LESIONS, NETS, TOKENS, frames, trained_by_adam, training

import gradlab as gl
from gradlab.experiments.spreading import share, spread, team, together
from gradlab.training.parallel import Parallel

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread")
    x = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    for name, images in (("data.npz", 60), ("cifar10.npz", 256)):
        parts = {"train": slice(images), "test": slice(30)}
        images_and_labels = {f"x_{part}": x[own] for part, own in parts.items()}
        images_and_labels |= {f"y_{part}": np.arange(256)[own] % 10 for part, own in parts.items()}
        np.savez(folder / name, **images_and_labels)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes has found."""
    environments = [{**own, "GRADLAB_DATA": str(folder)} for own in environments_of_ranks(2)]
    run_modules("oracles.spreading", [[str(folder)]] * 2, environments)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@SLOW
def test_tasks_are_done_once_and_told_to_all(found: list[dict[str, Any]]) -> None:
    assert [number for number, _ in found[0]["tasks"]] == [*range(7)]
    assert found[0]["tasks"] == found[1]["tasks"]
    assert found[0]["failed"].startswith("elsewhere: rank 1 of 2 on ")
    assert found[1]["failed"] == "this task is bad"


@SLOW
def test_nets_and_seeds_are_those_of_one_process_to_the_byte(found: list[dict[str, Any]]) -> None:
    alone = gl.shatter(**NETS)
    expected = alone.frame.to_csv() + alone.summary_frame.to_csv()
    gradients = gl.gradients("resnet8@init", images=8, batch_size=8, seeds=3).frame.to_csv()
    assert [its["shatter"] for its in found] == [expected] * 2
    assert [its["gradients"] for its in found] == [gradients] * 2
    assert found[0]["parts"] == 3 * 3  # seeds; of ff with two norms and of resnet


@SLOW
def test_nets_that_are_done_are_read(folder: Path, found: list[dict[str, Any]], monkeypatch: Any) -> None:
    monkeypatch.setattr("gradlab.experiments.shatter.parts.run_seeds", None)
    again = gl.shatter(**NETS, keep=folder / "parts")
    assert again.frame.to_csv() + again.summary_frame.to_csv() == found[0]["shatter"]


@SLOW
def test_batches_of_one_network_are_shared(found: list[dict[str, Any]]) -> None:
    alone = gl.responses("resnet8@init", images=20, batch_size=5)
    facts = alone.record["networks"][0]
    for its in found:
        rows = pd.DataFrame(its["responses"])
        assert rows["count"].tolist() == alone.frame["count"].tolist()
        assert rows["std"].tolist() == pytest.approx(alone.frame["std"].tolist(), rel=1e-12)
        assert its["facts"] == pytest.approx([facts["accuracy"], facts["loss"]], rel=1e-6)


@SLOW
def test_a_training_of_two_goes_on_bit_for_bit(folder: Path, found: list[dict[str, Any]]) -> None:
    for its in found:
        assert its["stopped"].startswith("stopped at step 5 of 8")
        assert its["resumed"] == its["whole"]
        assert its["whole"][0].startswith("batches of 24 are shared by 2 ranks, each of which normalizes")
    whole, resumed = (torch.load(folder / name / "checkpoint.pt", weights_only=True) for name in ("whole", "stopped"))
    for key, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][key]), key
    assert (folder / "whole" / "metrics.csv").read_text() == (folder / "stopped" / "metrics.csv").read_text()


@SLOW
def test_a_training_of_two_is_that_of_one(folder: Path, found: list[dict[str, Any]]) -> None:
    """Where no statistics of batches are taken: batches of three are two sequences and one."""
    alone = gl.train(GPT, "tokens:markov", recipe=TOKENS, out=folder / "alone", device="cpu")
    for its in found:
        losses = [loss for loss in its["tokens"] if loss is not None]
        assert losses == pytest.approx(alone.frame["train_loss"].dropna().tolist(), rel=1e-6)
    weights = [torch.load(folder / name / "checkpoint.pt", weights_only=True)["model"] for name in ("tokens", "alone")]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-5, atol=1e-6)


@SLOW
def test_adam_of_two_is_that_of_one_but_for_rounded_gradients_that_are_0(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    """A softmax over keys does not depend on their bias, whose gradient is rounding; Adam makes full steps of it."""
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        alone = trained_by_adam(dtype)
        both = [torch.load(folder / f"adam-{dtype}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        for key, value in alone.items():
            assert torch.equal(both[0][key], both[1][key]), key
            differs = (both[0][key] - value).abs() > bound
            if dtype is torch.float32 and key.endswith("qkv.bias"):
                assert differs.any()
                differs[16:32] = False
            assert not differs.any(), key


@SLOW
def test_another_number_of_processes_goes_on_with_a_note(folder: Path, found: list[dict[str, Any]]) -> None:
    assert found[0]["recorded"]
    recorded = pd.read_csv(io.StringIO((folder / "recorded" / "dynamics.csv").read_text()))
    assert not recorded.duplicated(["step", "layer", "statistic"]).any()
    content = torch.load(folder / "recorded" / "checkpoint.pt", weights_only=True)
    content["step"] -= 2
    torch.save(content, folder / "earlier.pt")
    result = training(folder, "fewer", resume=folder / "earlier.pt")
    assert result.record["notes"] == ["the run is continued although ranks is 1 and was 2"]


@SLOW
def test_nets_of_several_depths_are_trained_apart(folder: Path, found: list[dict[str, Any]]) -> None:
    assert [its["degradation"] for its in found] == [["plain8", "plain14"]] * 2
    for name in ("plain8", "plain14"):
        record = json.loads((folder / "runs" / name / "record.json").read_text())
        assert record["complete"]
        assert not any("shared by" in note for note in record["notes"])


@SLOW
def test_lesions_nets_and_trainings_of_a_comparison_are_those_of_one_process(
    folder: Path, found: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADLAB_DATA", str(folder))
    assert [its["lesion"] for its in found] == [frames(gl.lesion("resnet8@init", **LESIONS))] * 2
    assert [its["activations"] for its in found] == [frames(gl.activations(**ACTIVATIONS))] * 2
    compared = gl.compare(**COMPARED, runs=folder / "alone compared")
    assert [its["compare"] for its in found] == [frames(compared)] * 2


def test_one_process_shares_nothing() -> None:
    with together() as present:
        assert present is None is team()
        assert spread([3, 1], lambda task: 2 * task) == [6, 2]
        assert [*share("abc")] == ["a", "b", "c"]


@pytest.mark.parametrize(("size", "ranks"), [(128, 1), (128, 3), (5, 5), (7, 4)])
def test_shares_of_a_batch_are_all_of_it(size: int, ranks: int) -> None:
    parts = [Parallel(rank, ranks).share(slice(size, 2 * size)) for rank in range(ranks)]
    assert [place for part in parts for place in range(part.start, part.stop)] == [*range(size, 2 * size)]
    assert {part.stop - part.start for part in parts} <= {size // ranks, -(-size // ranks)}
    with pytest.raises(gl.UsageError, match="cannot share a batch of 1"):
        Parallel(0, 2).check_batch(1)
