"""The noise of gradients that a watch records, of micro-batches and of a part of a batch, against those by hand."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from probes.watch.loop import batch, made, values
from torch import Tensor, nn

import gradlab as gl
from gradlab.probes.watch.recorder import USUAL


def test_noise_of_micro_batches_against_gradients_by_hand() -> None:
    model = made().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = batch(0, 12)
    parts = [*zip(x.double().chunk(4), y.chunk(4), strict=True)]
    twin = copy.deepcopy(model)
    with gl.watch(model, optimizer, every=1, measure=["noise"]) as watch:
        for a, b in parts:
            (F.cross_entropy(model(a), b) / 4).backward()
        optimizer.step()
    each = []
    for a, b in parts:
        found = torch.autograd.grad(F.cross_entropy(twin(a), b), list(twin.parameters()))
        each.append(torch.cat([gradient.flatten() for gradient in found]))
    gradients = torch.stack(each)
    variance = gradients.var(0, correction=1).sum().item()
    total = values(watch.result().frame, 0, "total")
    assert total["gradient_variance"] == pytest.approx(variance, rel=1e-9)
    assert total["gradient_square"] == pytest.approx(gradients.mean(0).square().sum().item() - variance / 4, rel=1e-9)


def test_noise_by_two_batch_sizes_leaves_everything_else_as_it_is() -> None:
    frames, ends = [], []
    for parted in (True, False):
        model = nn.Sequential(made(), nn.Dropout(0.3), nn.BatchNorm1d(3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        twin = copy.deepcopy(model)
        x, y = batch(0, 12)
        torch.manual_seed(7)
        with gl.watch(model, optimizer, every=1, measure=[*USUAL, "noise"]) as watch:
            (8 * F.cross_entropy(model(x), y)).backward()
            if parted:
                part = functools.partial(lambda net, x, y: 8 * F.cross_entropy(net(x), y), model, x[:4], y[:4])
                watch.log(part=part, share=1 / 3)
            optimizer.step()
        frames.append(watch.result().frame)
        ends.append([*model.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    parted = frames[0][~frames[0]["statistic"].isin(["gradient_variance", "gradient_square"])].reset_index(drop=True)
    assert len(parted) == len(frames[0]) - 2
    texts = dict.fromkeys(("network", "layer", "block", "statistic"), str)
    assert parted.astype(texts).equals(frames[1].astype(texts))
    torch.manual_seed(7)
    large = norm_of(twin, 8 * F.cross_entropy(twin(x), y))
    small = norm_of(twin, 8 * F.cross_entropy(twin(x[:4]), y[:4]))
    total = values(frames[0], 0, "total")
    # E‖g‖² is |G|² + tr(Σ) for the part, and |G|² + tr(Σ) / 3 for the batch.
    assert total["gradient_square"] + total["gradient_variance"] == pytest.approx(small**2, rel=1e-5)
    assert total["gradient_square"] + total["gradient_variance"] / 3 == pytest.approx(large**2, rel=1e-5)


def norm_of(model: nn.Module, loss: Tensor) -> float:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).norm().item()


def test_noise_does_not_depend_on_the_scale_of_mixed_precision() -> None:
    noise = []
    for scale in (1.0, 1024.0):
        model = made()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with gl.watch(model, optimizer, every=1, measure=["noise"]) as watch:
            for number in range(2):
                x, y = batch(number)
                scaler.scale(F.cross_entropy(model(x), y) / 2).backward()
            scaler.step(optimizer)
        noise.append([values(watch.result().frame, 0, "total")[f"gradient_{name}"] for name in ("variance", "square")])
    assert noise[1] == pytest.approx(noise[0], rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"part": lambda: torch.ones(()), "share": 0.5}, "has no gradient"),
        ({"part": lambda: torch.ones(()), "share": 2.0}, "below 1, not 2"),
    ],
)
def test_a_part_that_tells_nothing_is_refused(wrong: dict[str, object], words: str) -> None:
    model = made()
    with gl.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), every=1, measure=["noise"]) as watch:
        with pytest.raises(gl.UsageError, match=words):
            watch.log(**wrong)
    with gl.watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as watch:
        with pytest.raises(gl.UsageError, match="noise"):
            watch.log(part=lambda: torch.ones(()))
