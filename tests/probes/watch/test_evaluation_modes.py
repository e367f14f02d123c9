"""Batch normalization and dropout that a training leaves in evaluation mode are named."""

import copy
import warnings

import pytest
import torch
from torch import nn

import gradlab as gl


class Net(nn.Module):
    """A frozen part, and a trained one with every module that has two modes."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.1)).requires_grad_(False)
        self.norm, self.drop, self.none = nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Dropout(0.0)
        self.plain = nn.BatchNorm1d(8, track_running_stats=False)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.none(self.drop(self.plain(self.norm(self.teacher(x)))))[:, None]
        return self.head(self.attention(x, x, x)[0])


def notes(model: nn.Module, modes: list[bool], every: int = 1) -> list[str]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    with gl.watch(model, optimizer, every=every) as watch:
        for training in modes:
            model.train(training)
            model.teacher.eval()
            optimizer.zero_grad()
            model(torch.randn(16, 8)).square().mean().backward()
            optimizer.step()
    return [note for note in watch.result().notes if "evaluation mode" in note]


@pytest.mark.parametrize(
    ("modes", "every", "said"),
    [
        ([True] * 4, 1, ""),
        ([False] * 4, 1, "4 recorded steps"),
        ([False, True] * 2, 2, "2 recorded steps"),
        ([True, False, True], 1, "1 recorded step,"),
    ],
)
def test_modes_at_recorded_steps(modes: list[bool], every: int, said: str) -> None:
    found = notes(Net(), modes, every)
    assert len(found) == bool(said)
    assert all(note.startswith(f"norm, drop, attention: in evaluation mode at {said}") for note in found)


def test_a_teacher_that_no_optimizer_steps_is_in_this_mode_on_purpose() -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
    pair = nn.ModuleDict({"student": student, "teacher": copy.deepcopy(student)})
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    for evaluated, said in (("teacher", []), ("student", ["student.1, student.2"])):
        pair.train()
        pair[evaluated].eval()
        with gl.watch(pair, optimizer, every=1) as watch:
            for _ in range(3):
                x = torch.randn(16, 8)
                with torch.no_grad():
                    target = pair["teacher"](x)
                optimizer.zero_grad()
                (student(x) - target).square().mean().backward()
                optimizer.step()
                with torch.no_grad():
                    for mean, new in zip(pair["teacher"].parameters(), student.parameters(), strict=True):
                        mean.lerp_(new, 0.1)
        found = [note.partition(":")[0] for note in watch.result().notes if "evaluation mode" in note]
        assert found == said


def test_one_recurrent_layer_has_no_dropout() -> None:
    """Torch's dropout lies between layers."""
    for layers, said in ((1, 0), (2, 1)):
        with warnings.catch_warnings(action="ignore"):
            net = nn.GRU(4, 4, layers, dropout=0.2).eval()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        with gl.watch(net, optimizer, every=1) as watch:
            net(torch.randn(3, 2, 4))[0].square().mean().backward()
            optimizer.step()
        assert sum("evaluation mode" in note for note in watch.result().notes) == said


def test_frozen_normalization_is_in_this_mode_on_purpose() -> None:
    model = Net()
    model.norm.requires_grad_(False)
    (note,) = notes(model, [False])
    assert note.startswith("drop, attention: in evaluation mode")
