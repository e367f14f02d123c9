"""Recording a training: what is written, that it changes nothing, and that it survives a stop."""

import csv
import os
import signal
import sys
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gradlab as gl
from gradlab.training import PRESETS, Recording
from gradlab.training.augmentation import EpochPlan, crop_and_flip

RECIPE = PRESETS["he2015"].changed(iterations=12, batch_size=32, normalization="none")
BOTH = ("responses", "gradients")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> str:
    draw = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    arrays = {f"x_{part}": draw.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for part, n in SIZES.items()}
    np.savez(path, **arrays, **{f"y_{part}": np.arange(n) % 10 for part, n in SIZES.items()})
    return str(path)


SIZES = {"train": 160, "test": 40}


@pytest.fixture(scope="module")
def whole(noise: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that records every third step."""
    out = tmp_path_factory.mktemp("whole") / "run"
    gl.train("resnet8", noise, recipe=RECIPE, out=out, seed=1, device="cpu", record=BOTH, every=3)
    return out


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "dynamics.csv").open() as file:
        return list(csv.DictReader(file))


def test_recording_changes_no_bit(whole: Path, noise: str, tmp_path: Path) -> None:
    gl.train("resnet8", noise, recipe=RECIPE, out=tmp_path / "run", seed=1, device="cpu")
    contents = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, tmp_path / "run")]
    for name, value in contents[0]["model"].items():
        assert torch.equal(value, contents[1]["model"][name])
    buffers = [[s["momentum_buffer"] for s in content["optimizer"]["state"].values()] for content in contents]
    assert all(torch.equal(a, b) for a, b in zip(*buffers, strict=True))
    assert torch.equal(contents[0]["random"]["cpu"], contents[1]["random"]["cpu"])
    assert (whole / "metrics.csv").read_bytes() == (tmp_path / "run" / "metrics.csv").read_bytes()


def test_what_is_recorded_is_what_a_loop_by_hand_sees(whole: Path, noise: str) -> None:
    assert sorted({int(row["step"]) for row in rows(whole)}) == [0, 3, 6, 9]
    recorded = {(row["layer"], row["statistic"]): float(row["value"]) for row in rows(whole) if row["step"] == "0"}

    model = gl.models.create("resnet8", seed=1).train().double()
    plan = EpochPlan.draw(1, 0, SIZES["train"], 4, flip=True)
    chosen = plan.order[:32]
    with np.load(noise) as arrays:
        images = torch.from_numpy(arrays["x_train"]).permute(0, 3, 1, 2)[chosen].double() / 255
        labels = torch.from_numpy(arrays["y_train"])[chosen]
    stds: list[float] = []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda _, args, output: stds.append(output.detach().std(correction=0).item()))
    logits = model(crop_and_flip(images, 4, plan.offsets[:32], plan.mirrored[:32]))
    # The classifier's response has no normalization behind it.
    stds.append(logits.detach().std(correction=0).item())
    F.cross_entropy(logits, labels).backward()

    responses = [value for (_, statistic), value in recorded.items() if statistic == "response_std"]
    assert responses == pytest.approx(stds, rel=1e-5)
    weights = {n.removesuffix(".weight"): p for n, p in model.named_parameters() if p.ndim > 1}
    assert [layer for layer, statistic in recorded if statistic == "grad_norm"] == [*weights, "total"]
    for layer, weight in weights.items():
        norm = float(weight.grad.norm())
        assert recorded[layer, "grad_norm"] == pytest.approx(norm, rel=1e-3)
        assert recorded[layer, "relative"] == pytest.approx(norm / float(weight.detach().norm()), rel=1e-3)


def stopped(noise: str, out: Path, **record: object) -> None:
    """Train until the first look, at step 5, and be stopped there."""
    with pytest.raises(gl.GradlabError, match="stopped at step"):
        gl.train(
            "resnet8",
            noise,
            recipe=RECIPE,
            out=out,
            seed=1,
            device="cpu",
            observe=lambda status: os.kill(os.getpid(), signal.SIGTERM),
            **record,  # type: ignore[arg-type]
        )


def test_a_record_is_cut_back_to_the_checkpoint_and_goes_on(whole: Path, noise: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(noise, run, record=BOTH, every=3)
    with (run / "dynamics.csv").open("a") as file:
        # What a run that is killed later leaves: rows after the checkpoint, the last one by half.
        file.write("6,conv1,1,,response_std,1.0\n6,layer1.0.co")
    assert len(gl.DynamicsResult.load(run).frame) == len([r for r in rows(whole) if int(r["step"]) < 5]) + 1
    assert gl.TrainingResult.load(run).frame["step"].tolist() == [5]
    gl.train("resnet8", noise, recipe=RECIPE, out=run, seed=1, device="cpu", record=BOTH, every=3)
    assert (run / "dynamics.csv").read_bytes() == (whole / "dynamics.csv").read_bytes()


def test_a_run_that_began_with_fewer_columns_goes_on_with_them(whole: Path, noise: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(noise, run, record=BOTH, every=3)
    kept = "".join(f"{r['step']},{r['layer']},{r['statistic']},{r['value']}\n" for r in rows(run))
    text = f"step,layer,statistic,value\n{kept}"
    (run / "dynamics.csv").write_text(text)
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    content["lengths"]["dynamics.csv"] = len(text)
    torch.save(content, run / "checkpoint.pt")
    gl.train("resnet8", noise, recipe=RECIPE, out=run, seed=1, device="cpu", record=BOTH, every=3)
    assert [r["value"] for r in rows(run)] == [r["value"] for r in rows(whole)]
    frame = gl.DynamicsResult.load(run).frame
    assert frame["step"].tolist() == gl.DynamicsResult.load(whole).frame["step"].tolist()


def test_a_stretch_without_recording_keeps_the_record(whole: Path, noise: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(noise, run, record=BOTH, every=3)
    stopped(noise, run)
    gl.train("resnet8", noise, recipe=RECIPE, out=run, seed=1, device="cpu", record="gradients", every=11)
    assert sorted({int(row["step"]) for row in rows(run)}) == [0, 3, 11]


def test_a_compiled_network_is_recorded_eagerly_without_a_word(
    whole: Path, noise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A backend that runs the graph as it is takes Dynamo's road, which is where hooks get lost, without a compiler.
    compilations: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        compilations.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    options = {"recipe": RECIPE, "out": tmp_path, "seed": 1, "device": "cpu", "record": BOTH, "every": 3}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*compiled.*")
        gl.train("resnet8", noise, compiled=True, **options)  # type: ignore[arg-type]
    assert len(compilations) == 1
    for row, expected in zip(rows(tmp_path), rows(whole), strict=True):
        assert {**row, "value": ""} == {**expected, "value": ""}
        if row["statistic"] in ("response_std", "grad_norm", "weight_norm"):
            assert float(row["value"]) == pytest.approx(float(expected["value"]), rel=0.05)


def test_log_spaced_steps() -> None:
    due = Recording(("gradients",), "log").schedule()
    steps = [step for step in range(10_001) if due(step)]
    assert steps[:10] == list(range(10))
    tail = [b / a for a, b in pairwise(steps) if a > 200]
    assert tail == pytest.approx([10**0.05] * len(tail), rel=0.01)


@pytest.mark.parametrize("wrong", [{"what": ("weights",)}, {"what": (), "every": 0}, {"what": (), "every": "often"}])
def test_what_cannot_be_recorded_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(gl.UsageError, match="record"):
        Recording(**wrong)  # type: ignore[arg-type]


def test_tensorboard_gets_what_the_tables_get(noise: str, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = {"recipe": RECIPE.changed(iterations=4), "out": tmp_path, "device": "cpu"}
    gl.train("resnet8", noise, record="gradients", every=2, log="tensorboard", **options)  # type: ignore[arg-type]
    events = accumulator.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    of_fc = [row for row in rows(tmp_path) if (row["layer"], row["statistic"]) == ("fc", "grad_norm")]
    seen = events.Scalars("gradlab/grad_norm/fc")
    assert [event.step for event in seen] == [0, 2]
    assert [event.value for event in seen] == pytest.approx([float(row["value"]) for row in of_fc], rel=1e-6)
    assert events.Scalars("error/test")[0].step == 4


def test_tensorboard_that_is_not_there(noise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(gl.UsageError, match="tensorboard is not installed: pip install"):
        gl.train("resnet8", noise, recipe=RECIPE, out=tmp_path / "run", log="tensorboard")
    assert not (tmp_path / "run").exists()
