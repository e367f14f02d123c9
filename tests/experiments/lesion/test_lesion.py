"""`gl.lesion`: rows against networks that are evaluated by hand, closed forms, files, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl


def wrong(model: nn.Module, data: str, images: int) -> np.ndarray:
    ((x, labels),) = gl.batches(data, images, model=model, images=images)
    with torch.no_grad():
        return (model(x).argmax(1) != labels).numpy()


@pytest.fixture(scope="module")
def measured() -> gl.LesionResult:
    return gl.lesion(["resnet20", "plain20"], images=24, batch_size=16, several=(3,), swaps=(2,), samples=2, paths=3)


def test_rows_are_errors_of_networks_without_a_module(measured: gl.LesionResult) -> None:
    model = gl.build("resnet20@trained")
    frame = measured.frame[measured.frame["network"] == "resnet20@trained"]
    before = wrong(model, "cifar10-sample", 24)
    assert frame.loc[frame["study"] == "intact", "error"].item() == pytest.approx(before.mean())
    rows, increases = frame[frame["study"] == "delete"].set_index("block"), []
    assert rows["resized"][["layer2.0", "layer3.0"]].all()
    assert rows["resized"].sum() == 2
    for name in rows.index:
        block = model.get_submodule(name)
        hook = block.register_forward_hook(lambda m, args, out: F.relu(m.shortcut(args[0])))
        now = wrong(model, "cifar10-sample", 24)
        hook.remove()
        assert rows["error"][name] == pytest.approx(now.mean())
        assert (rows["newly_wrong"][name], rows["newly_right"][name]) == ((now & ~before).sum(), (before & ~now).sum())
        increases.append(now.astype(float) - before)
    own = np.mean(increases, axis=0)
    facts = measured.facts("resnet20@trained")
    assert facts["increase"] == pytest.approx(own.mean())
    assert facts["increase_sem"] == pytest.approx(own.std(ddof=1) / 24**0.5)
    assert measured.facts("plain20@trained")["left_out"] == ["conv1", "layer2.0.conv1", "layer3.0.conv1", "fc"]
    orders = measured.frame[measured.frame["study"] == "reorder"]
    assert orders["tau"].between(-1, 1).all()
    assert orders["tau"].min() < 1


def test_files_and_figures(measured: gl.LesionResult, tmp_path: Path) -> None:
    measured.figures = ("lesion", "deletion")
    names = {path.name for path in measured.save(tmp_path, formats=("svg",))}
    assert {"lesion.svg", "lesion-deletion.svg", "lesion.csv", "lesion-paths.csv"} < names
    again = gl.Result.load(tmp_path)
    pd.testing.assert_frame_equal(again.frame, measured.frame)
    pd.testing.assert_frame_equal(again.paths_frame, measured.paths_frame)
    assert again.findings() == measured.findings()
    assert len(again.summary()) == 2
    joined = gl.LesionResult.concat([again, again])
    assert len(joined.paths_frame) == 2 * len(again.paths_frame)
    assert set(joined.paths_frame["network"]) < set(joined.frame["network"])


class Scalar(nn.Module):
    """Six blocks x + 0.5·x, by convolutions that multiply with 0.5: a path of length k has the gradient 0.5^k·g."""

    input_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 1, bias=False) for _ in range(6))
        self.head = nn.Linear(3, 10)
        for block in self.blocks:
            nn.init.eye_(block.weight[:, :, 0, 0].detach())
            block.weight.data *= 0.5

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def test_gradients_on_paths_have_their_closed_form() -> None:
    torch.manual_seed(0)
    result = gl.lesion(Scalar().eval(), images=1, batch_size=1, studies="paths", paths=2, normalize="none")
    norms = result.paths_frame.groupby("length")["gradient_norm"].mean()
    assert norms.to_numpy() == pytest.approx(norms[0] * 0.5 ** np.arange(7), rel=1e-6)
    row = result.summary().iloc[0]
    # Binomial(6, 1/2) weighted by 0.5^k is Binomial(6, 1/3).
    assert row["effective depth"] == pytest.approx(6 / 3, rel=1e-6)
    # Of Binomial(6, 1/3), P(5) + P(6) is 13/729 and below 2.5 %, and P(0) is above it.
    carried = next(finding for finding in result.findings() if "carry" in finding)
    assert "paths through 0 to 4 of 6 residual modules" in carried
    assert f"carry {716 / 729:.1%} of the gradient magnitude" in carried
    factor = next(finding for finding in result.findings() if "per residual module" in finding)
    assert "factor of 0.5" in factor


class Around(Scalar):
    """The same with a way around all blocks."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean((2, 3)).repeat(1, 4)[:, :10]


def test_what_cannot_be_measured_is_said() -> None:
    result = gl.lesion(Around().eval(), images=2, studies=("delete", "paths"), paths=1, normalize="none")
    assert result.paths_frame.empty
    assert any("gradients also flow around blocks.0" in note for note in result.notes)
    with pytest.raises(gl.UsageError, match="give data with labels"):
        gl.lesion("resnet8@init", "noise", images=2)
    with pytest.raises(gl.GradlabError, match="nothing can be deleted"):
        gl.lesion(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), images=2)
    with pytest.raises(gl.UsageError, match="a study is delete, several, reorder or paths, not 'reverse'"):
        gl.lesion("resnet8@init", studies="reverse")
    with pytest.raises(gl.UsageError, match="several must be at least 1"):
        gl.lesion("resnet8@init", images=2, several=(0,))


def test_lesions_that_a_network_does_not_admit_are_named() -> None:
    result = gl.lesion(
        "resnet8@init", images=2, studies=("several", "reorder"), several=(2, 2, 5, 9), swaps=(1,), samples=1
    )
    assert result.frame["study"].tolist() == ["intact", "several"]
    assert any("has 3 residual modules: 5 or 9 cannot be deleted at once" in note for note in result.notes)
    assert any("no two blocks are alike" in note for note in result.notes)
    with pytest.raises(gl.UsageError, match=r"nothing to measure.* 5 cannot be deleted at once"):
        gl.lesion("resnet8@init", images=2, studies="several", several=(5,))


def test_a_network_without_residual_modules_has_no_paths_and_not_all_its_layers_are_deleted() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 10)).eval()
    result = gl.lesion(model, images=2, normalize="none", several=(1, 2), swaps=(1,), samples=1)
    notes = " ".join(result.notes)
    assert "has 1 layer that keeps the shape of its input: 2 cannot be deleted at once" in notes
    assert "there is no residual module, and so no choice of paths to sample" in notes
    with pytest.raises(gl.UsageError, match=r"nothing to measure: .*no residual module") as refused:
        gl.lesion("plain8@init", images=2, studies="paths")
    assert "not deleted" not in str(refused.value)


def test_detectors_are_refused_before_they_run() -> None:
    model = gl.build("fasterrcnn-vgg16@init")
    model.forward = None  # type: ignore[method-assign, assignment]
    with pytest.raises(gl.UsageError, match="is a detector: lesions are measured by the errors of classifiers"):
        gl.lesion(model, images=1)


def test_a_network_whose_outputs_are_all_nan_is_refused() -> None:
    model = Scalar().eval()
    model.head.weight.data[:] = float("nan")
    with pytest.raises(gl.GradlabError, match="Scalar: all outputs hold NaN"):
        gl.lesion(model, images=2, studies="delete", normalize="none")


def test_transformers_of_tokens() -> None:
    result = gl.lesion("gpt2-width=32@init:0", images=3, several=(2,), swaps=(1,), samples=1, paths=1)
    deleted = result.frame[result.frame["study"] == "delete"]
    assert deleted["branch"].tolist() == ["attn", "mlp"] * 2
    assert len(result.paths_frame) == 5
    assert (result.paths_frame["gradient_norm"] > 0).all()


class Aside(nn.Module):
    """Residual blocks that also write to a product, which the head reads: one that stands still is missed."""

    input_shape = (3, 32, 32)

    class Block(nn.Module):
        def __init__(self, model: list[nn.Module]) -> None:
            super().__init__()
            self.conv, self.model = nn.Conv2d(3, 3, 1), model

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.conv(x)
            self.model[0].side = self.model[0].side * out.mean((2, 3))
            return out

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.side = torch.zeros(1)
        self.blocks = nn.ModuleList(self.Block([self]) for _ in range(3))
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.side = torch.ones(len(x), 3)
        for block in self.blocks:
            x = block(x)
        return self.head(self.side)


def test_blocks_that_hand_on_more_than_their_output_run_again() -> None:
    model, images = Aside(), 40
    result = gl.lesion(model, images=images, batch_size=16, studies=("delete",))
    rows = result.frame[result.frame["study"] == "delete"].set_index("block")["error"]
    for name in rows.index:
        weight = model.get_submodule(name).conv
        kept = [parameter.detach().clone() for parameter in weight.parameters()]
        for parameter in weight.parameters():
            nn.init.zeros_(parameter)
        assert rows[name] == pytest.approx(wrong(model, "cifar10-sample", images).mean())
        for parameter, before in zip(weight.parameters(), kept, strict=True):
            parameter.data.copy_(before)
    assert rows.nunique() > 1
