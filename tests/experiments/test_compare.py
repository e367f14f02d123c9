"""`gl.compare`: counts that match, values by plain hooks, and sentences that say what the numbers do."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.experiments.compare import initial
from gradlab.experiments.compare.compare import members
from gradlab.experiments.compare.matching import matched
from gradlab.experiments.compare.request import CompareRequest
from gradlab.models import create
from gradlab.results.compare.findings import findings

ALL = ("resnet", "preact", "densenet", "vovnet", "highway", "plain")


@pytest.mark.parametrize(("blocks", "depth"), [(ALL, 56), (("densenet", "resnet", "vovnet"), 40)])
def test_networks_of_all_blocks_have_equal_numbers_of_parameters(blocks: tuple[str, ...], depth: int) -> None:
    counts = {
        one.name: sum(p.numel() for p in create(one.name).parameters())
        for one in matched(blocks, depth, "parameters", 0.05)
    }
    reference, *others = counts.values()
    assert len(counts) == len(blocks)
    assert all(abs(count / reference - 1) <= 0.05 for count in others)


def test_multiply_adds_are_matched_and_a_tolerance_that_no_network_meets_is_named() -> None:
    networks = matched(("resnet", "vovnet"), 56, "multiply-adds", 0.05)
    assert abs(networks[1].cost.multiply_adds / networks[0].cost.multiply_adds - 1) <= 0.05
    with pytest.raises(UsageError, match=r"no densenet network has as many parameters .* the nearest is densenet"):
        matched(("resnet", "densenet"), 8, "parameters", 1e-4)
    with pytest.raises(UsageError, match=r"within 0\.01%: the nearest"):
        matched(("resnet", "densenet"), 8, "parameters", 1e-4)


def test_a_block_without_a_network_near_the_depth_is_named() -> None:
    with pytest.raises(UsageError, match=r"there is no vovnet network of 6 to 23 layers to compare with resnet20"):
        matched(("resnet", "vovnet"), 20, "parameters", 0.5)


def test_a_block_named_again_counts_once() -> None:
    networks = matched(("resnet", "resnet", "preact", "resnet", "preact"), 8, "parameters", 0.05)
    assert [one.block for one in networks] == ["resnet", "preact"]


def test_residual_nets_have_the_layers_of_the_plain_nets_at_depths_with_other_networks_too() -> None:
    """resnet164 has bottlenecks, and resnet50 is a name of two networks."""
    plain50, plain164, residual50, residual164 = members(CompareRequest(question="depth", depths=(50, 164)))
    assert (residual50.name, residual164.name) == ("resnet50-basic", "resnet164-basic")
    assert (plain50.cost, plain164.cost) == (residual50.cost, residual164.cost)
    assert [one.name for one in matched(("resnet", "preact"), 164, "parameters", 0.05)] == [
        "resnet164-basic",
        "resnet164-basic-preact",
    ]


def gradient_norms_by_hand(name: str, seed: int, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """The norms of the gradient with respect to the normalized outputs of the convolutions, in float64."""
    model = create(name, seed=seed).double().train()
    kept: list[torch.Tensor] = []
    for layer, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d) and "shortcut" not in layer:
            module.register_forward_hook(lambda m, args, out: kept.append(out) or out.clone())
    gradients = torch.autograd.grad(F.cross_entropy(model(images.double()), labels), kept)
    return [float(gradient.norm()) for gradient in gradients]


@pytest.fixture(scope="module")
def shortcut(tmp_path_factory: pytest.TempPathFactory) -> gl.CompareResult:
    """Two nets of eight layers, measured on eight images and trained for a step."""
    folder = tmp_path_factory.mktemp("compare")
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (128, 32, 32, 3), np.uint8), np.arange(128) % 10
    np.savez(folder / "toy.npz", x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    return gl.compare(
        "shortcut", depths=(8,), data=str(folder / "toy.npz"), images=8, seeds=2, device="cpu",
        epochs=1, preset="he2015", runs=folder / "runs",
    )  # fmt: skip


def test_gradients_are_those_of_plain_hooks(shortcut: gl.CompareResult) -> None:
    images, labels = next(iter(gl.batches(shortcut.record["options"]["data"], 8, images=8)))
    for name in ("plain8", "resnet8"):
        norms = np.array([gradient_norms_by_hand(name, seed, images, labels) for seed in (0, 1)])
        rows = shortcut.frame[shortcut.frame["network"] == name].set_index("statistic")
        np.testing.assert_allclose(rows.loc["gradient_norm", "value"], norms.mean(0), rtol=2e-3)
        np.testing.assert_allclose(rows.loc["gradient_norm", "place"], np.linspace(0, 1, 7))
        assert rows.loc["gradient_log_ratio", "value"] == pytest.approx(
            np.log(norms[:, 0] / norms[:, -1]).mean(), abs=5e-3
        )


def test_effective_ranks_are_those_of_the_measurement_of_shattering(shortcut: gl.CompareResult) -> None:
    alone = gl.input_gradients(
        ["plain8", "resnet8"], shortcut.record["options"]["data"], weights="init", images=8, batch_size=8, seeds=2,
        device="cpu",
    )  # fmt: skip
    for name in ("plain8", "resnet8"):
        row = shortcut.frame[
            (shortcut.frame["network"] == name) & (shortcut.frame["statistic"] == "relative_effective_rank")
        ]
        assert row["value"].item() == pytest.approx(alone.value(f"{name}@init", "relative_effective_rank")[0], rel=1e-5)


def test_errors_are_those_of_the_runs(shortcut: gl.CompareResult, tmp_path: Path) -> None:
    for name in ("plain8", "resnet8"):
        (folder,) = Path(shortcut.record["options"]["runs"]).glob(f"*/{name}")
        last = pd.read_csv(folder / "metrics.csv").iloc[-1]
        rows = shortcut.frame[shortcut.frame["network"] == name].set_index("statistic")
        assert rows.loc["test_error", "value"] == pytest.approx(last["test_error"])
        assert rows.loc["train_error", "value"] == pytest.approx(last["train_error"])
    shortcut.save(tmp_path, formats=["svg"])
    again = gl.CompareResult.load(tmp_path)
    assert again.findings() == shortcut.findings()
    assert len(again.findings()) == 4


def result(question: str, ratios: dict[str, float], blocks: tuple[str, ...] = ()) -> gl.CompareResult:
    """A comparison in which the logarithm of every ratio has a standard error of 0.01 over five seeds."""
    rows = [
        {"network": name, "statistic": statistic, "place": np.nan, "value": value, "sem": 0.01, "seeds": 5}
        for name, ratio in ratios.items()
        for statistic, value in (("gradient_log_ratio", np.log(ratio)), ("relative_effective_rank", 0.5))
    ]
    facts: list[dict[str, Any]] = [
        {
            "network": name,
            "parameters": 1,
            "multiply_adds": 1,
            "layers": 1,
            "description": gl.models.describe(name).to_dict(),
        }
        for name in ratios
    ]
    return gl.CompareResult(pd.DataFrame(rows), {"options": {"question": question}, "networks": facts})


@pytest.mark.parametrize(
    ("question", "ratios", "said"),
    [
        ("depth", {"plain20": 4, "plain56": 90, "resnet20": 2, "resnet56": 9}, "Depth makes the gradient less even: "),
        ("depth", {"plain20": 4, "plain56": 90, "resnet20": 2, "resnet56": 2}, "even in 1 of 2 comparisons: "),
        ("depth", {"plain20": 4, "plain56": 90, "resnet20": 9, "resnet56": 2}, "depends on the family: "),
        ("depth", {"plain20": 4, "plain56": 4}, "Depth makes no significant difference to how even the gradient is: "),
        ("shortcut", {"plain20": 9, "resnet20": 2, "plain56": 90, "resnet56": 3}, "makes the gradient more even: "),
        ("shortcut", {"plain20": 0.1, "resnet20": 0.5}, "The shortcut makes the gradient more even: "),
        ("shortcut", {"plain20": 2, "resnet20": 9, "plain56": 90, "resnet56": 3}, "depends on the depth: "),
        ("shortcut", {"plain20": 2, "resnet20": 9}, "The shortcut makes the gradient less even: "),
    ],
)
def test_at_initialization_the_gradient_is_told_and_nothing_about_training(
    question: str, ratios: dict[str, float], said: str
) -> None:
    """Among them a gradient that shrinks towards the first layer, which departs from 1 as one that grows does."""
    first, second = result(question, ratios).findings()
    assert said in first
    assert first.endswith("Which of them trains better, this does not tell (--epochs trains them).")
    assert "1%" in first.rule  # type: ignore[attr-defined]
    assert "not significantly different" in second


def trained_result(question: str, errors: dict[str, float], steps: int | None) -> gl.CompareResult:
    """Trainings of 50,000 images whose training and test errors are equal; None for steps that are not recorded."""
    made = result(question, dict.fromkeys(errors, 2.0))
    shown = {"place": 9, "sem": np.nan, "seeds": 1}
    rows = [
        {"network": name, "statistic": f"{kind}_error", "value": error, **shown}
        for name, error in errors.items()
        for kind in ("train", "test")
    ]
    counts = {"training_images": 50_000, "test_images": 10_000} | ({} if steps is None else {"training_steps": steps})
    facts: list[dict[str, Any]] = [one | counts for one in made.record["networks"]]
    return gl.CompareResult(pd.concat([made.frame, pd.DataFrame(rows)]), {**made.record, "networks": facts})


def trained(question: str, errors: dict[str, float], steps: int | None) -> list[str]:
    """The sentences on such trainings."""
    return trained_result(question, errors, steps).findings()


@pytest.mark.parametrize(
    ("question", "errors", "said"),
    [
        ("depth", {"plain20": 0.1, "plain56": 0.2, "resnet20": 0.2, "resnet56": 0.1}, "Deeper is not always better: "),
        ("depth", {"plain20": 0.2, "plain56": 0.1}, "Deeper is better here: "),
        ("depth", {"plain20": 0.100, "plain56": 0.101}, "Depth makes no significant difference here: "),
        ("shortcut", {"plain20": 0.2, "resnet20": 0.1}, "The shortcut helps: "),
        ("shortcut", {"plain20": 0.1, "resnet20": 0.2}, "The shortcut does not help here: "),
    ],
)
def test_trained_networks_answer_the_question_unless_they_are_hardly_trained(
    question: str, errors: dict[str, float], said: str
) -> None:
    training, test, initial, _ = trained(question, errors, steps=4000)
    assert training.startswith(said)
    assert test.startswith(said)
    assert initial.endswith("Which of them trains better, this does not tell.")
    short, *_ = trained(question, errors, steps=27)
    assert said not in short
    assert "without a verdict" in short
    assert short.endswith("27 steps are too few for a verdict: another seed may differ by more.")


def test_differences_are_falsely_stated_in_at_most_one_percent_of_cases_and_large_ones_found() -> None:
    """Equal networks of four seeds each, whose logarithms of ratios and whose ranks are skewed."""
    names = [f"{family}{depth}" for depth in (20, 56) for family in ("plain", "resnet")]
    described = result("shortcut", dict.fromkeys(names, 2.0))
    draw = np.random.default_rng(0)

    def stated(shift: float, runs: int) -> int:
        """The runs of which a sentence states a difference, plain nets being larger by so many standard deviations."""
        # A gamma distribution of shape 4 has a skewness of 1.
        values = draw.gamma(4, 0.5, (runs, len(names), 2, 4)) + shift * np.array([1, 0, 1, 0])[:, None, None]
        mean, error = values.mean(-1), values.std(-1, ddof=1) / 2
        count = 0
        for one in range(runs):
            frame = described.frame.assign(value=mean[one].ravel(), sem=error[one].ravel(), seeds=4)
            sentences = findings(frame, described.record["networks"], "shortcut")
            count += any("than" in sentence.split("Which")[0] for sentence in sentences)
        return count

    # The bound is exceeded by chance in 1 of 1,000 cases where the rate is 1 %.
    assert stated(0.0, 300) <= 9
    assert stated(8.0, 30) >= 28


def test_no_verdict_without_the_number_of_steps_and_an_error_that_is_missing_is_unknown() -> None:
    unknown, *_ = trained("shortcut", {"plain20": 0.2, "resnet20": 0.1}, steps=None)
    assert unknown.startswith(
        "After 9 epochs, of one training each, the training error is 10.00% in resnet20, without a"
    )
    assert unknown.endswith("is not recorded, and without it there is no verdict.")
    made = trained_result("shortcut", {"plain20": 0.2, "resnet20": 0.1}, steps=4000)
    absent = (made.frame["network"] == "plain20") & (made.frame["statistic"] == "train_error")
    partial = gl.CompareResult(made.frame[~absent], made.record)
    training, test, *_ = partial.findings()
    assert "10.00% in resnet20, without a verdict, beside unknown in plain20" in training
    assert test.startswith("The shortcut helps: ")
    errors = partial.figure().axes[3]
    assert errors.get_xlabel() == "after epoch 9 (%)"
    assert sorted(round(float(line.get_xdata()[0])) for line in errors.get_lines()) == [10, 10, 20]


@pytest.mark.parametrize(
    ("wide", "norms", "dtype", "said"),
    [
        (torch.float64, {torch.float32: 1.00001, torch.float64: 1.0}, torch.float32, []),
        (torch.float64, {torch.float32: 1.01, torch.float64: 1.0}, torch.float64, ["off by up to 1.00%: measured in"]),
        (torch.float64, {torch.float32: 0.0, torch.float64: 0.0}, torch.float64, ["not finite or 0: measured in"]),
        (torch.float32, {torch.float32: 0.0}, torch.float32, ["net: mps has no float64, so that"]),
    ],
)
def test_float32_is_held_against_float64_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, wide: torch.dtype, norms: dict[torch.dtype, float], dtype: torch.dtype,
    said: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(initial, "widest", lambda device: wide)
    monkeypatch.setattr(initial, "_drawn", lambda part, dtype: initial._Draw(np.ones(1), np.full(2, norms[dtype])))
    part = SimpleNamespace(stream=SimpleNamespace(device=torch.device("mps")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw, chosen, notes = initial._resolved("net", part)  # type: ignore[arg-type]
    assert (chosen, draw.norms[0]) == (dtype, norms[dtype])
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))


def test_blocks_are_told_against_the_first() -> None:
    first, _ = result("block", {"resnet56": 3, "plain56": 90, "densenet52-k8": 1.1}).findings()
    assert "3 (2.92 to 3.08) in resnet56, against 90" in first
    assert "in plain56 (farther from 1)" in first
    assert "in densenet52-k8 (closer to 1)" in first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"question": "block", "depths": (20, 56)}, "blocks are compared at one depth"),
        ({"question": "depth", "depths": (20,)}, "at least two"),
        ({"question": "block", "blocks": ("resnet", "senet")}, "'senet' is none of the blocks"),
        ({"question": "block", "blocks": ("resnet",)}, "at least two"),
        ({"question": "width"}, "question is depth, shortcut or block"),
        ({"question": "block", "tolerance": 1.5}, "a fraction between 0 and 1"),
    ],
)
def test_requests_that_cannot_be_meant(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        gl.compare(**arguments)


def test_a_folder_of_runs_that_is_a_file_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradlab.experiments.compare.compare.at_initialization", None)
    write_toy(tmp_path / "toy.npz", 256)
    (tmp_path / "runs").touch()
    with pytest.raises(gl.GradlabError, match="runs: it is no folder"):
        gl.compare("shortcut", depths=(8,), data=str(tmp_path / "toy.npz"), epochs=1, runs=str(tmp_path / "runs"))


def write_toy(path: Path, images: int) -> None:
    """Black images for training and as many for the test."""
    pixels, labels = np.zeros((images, 32, 32, 3), np.uint8), np.arange(images) % 10
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)


def test_images_too_few_for_a_batch_of_the_recipe_are_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradlab.experiments.compare.compare.at_initialization", None)
    write_toy(tmp_path / "toy.npz", 40)
    with pytest.raises(UsageError, match="40 training images are fewer than a batch of 256"):
        gl.compare("shortcut", depths=(8,), data=str(tmp_path / "toy.npz"), epochs=1, runs=tmp_path / "runs")


@pytest.mark.parametrize("fails", ["at_initialization", "train"])
def test_a_comparison_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise gl.GradlabError("it fails")

    monkeypatch.setattr("gradlab.experiments.compare.compare.at_initialization", lambda *_: (pd.DataFrame(), {}, []))
    monkeypatch.setattr(f"gradlab.experiments.compare.compare.{fails}", failing)
    write_toy(tmp_path / "toy.npz", 256)
    runs = tmp_path / "runs" / "compare"
    with pytest.raises(gl.GradlabError, match="it fails"):
        gl.compare("shortcut", depths=(8,), data=str(tmp_path / "toy.npz"), epochs=1, runs=runs)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.npz"]
