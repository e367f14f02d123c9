"""gl.watch against loops by hand: schedules, what it leaves alone, whose step a value is of."""

import copy
import functools
import gc
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from gradlab.probes.watch.recorder import USUAL


class Net(nn.Module):
    """Two convolutions with a shortcut, activations as a module and as a function, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.deep = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.deep(x))
        return torch.tanh(self.head(x.mean((2, 3))))


def made(kind: Callable[[], nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def batch(step: int, n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(n, 3, 5, 5, generator=generator), torch.randint(3, (n,), generator=generator)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def values(frame: pd.DataFrame, step: int, layer: str) -> dict[str, float]:
    rows = frame[(frame["step"] == step) & (frame["layer"] == layer)]
    assert not rows["statistic"].duplicated().any()
    return rows.set_index("statistic")["value"].to_dict()


def hooks(model: nn.Module) -> int:
    on_modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return on_modules + sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())


def test_responses_and_activations_of_a_loop_by_hand() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    twin = copy.deepcopy(model).double()
    with gl.watch(model, optimizer, every=1) as watch:
        train(model, optimizer, 1)
    frame = watch.result("mine").to_frame()
    x, y = batch(0)
    stem = twin.norm(twin.stem(x.double()))
    first = stem.relu()
    deep = twin.deep(first)
    second = (first + deep).relu()
    head = twin.head(second.mean((2, 3)))
    for response in (stem, deep, head):
        response.retain_grad()
    loss = F.cross_entropy(torch.tanh(head), y)
    loss.backward()
    for layer, response in {"stem": stem, "deep": deep, "head": head}.items():
        found, exact = values(frame, 0, layer), response.detach()
        assert found["response_std"] == pytest.approx(exact.std(correction=0).item(), rel=1e-6)
        assert found["response_mean"] == pytest.approx(exact.mean().item(), rel=1e-5, abs=1e-7)
        assert found["response_max"] == pytest.approx(exact.abs().max().item(), rel=1e-6)
        assert found["response_grad_rms"] == pytest.approx(response.grad.square().mean().sqrt().item(), rel=1e-5)
    assert values(frame, 0, "stem")["zero_fraction"] == pytest.approx((first == 0).double().mean().item(), abs=1e-12)
    # What is rectified there is a sum, and no layer's response.
    after = values(frame, 0, "relu")
    assert after["zero_fraction"] == pytest.approx((second == 0).double().mean().item(), abs=1e-12)
    assert values(frame, 0, "head")["saturated_fraction"] == (torch.tanh(head).abs() >= 0.98).double().mean().item()
    assert "zero_fraction" not in values(frame, 0, "deep")
    assert values(frame, 0, "total")["loss"] == pytest.approx(loss.item(), rel=1e-6)
    order = frame[frame["layer"] != "total"].groupby("layer")["index"].unique().sort_values()
    assert {layer: place.tolist() for layer, place in order.items()} == {
        "stem": [1],
        "deep": [2],
        "relu": [3],
        "head": [4],
    }
    columns = ["network", "step", "layer", "index", "block", "statistic", "value"]
    assert frame.columns[:7].tolist() == columns


@pytest.mark.parametrize(
    ("every", "first", "steps"),
    [
        (3, 0, [0, 3, 6, 9]),
        (4, 3, [0, 1, 2, 4, 8]),
        (gl.log_spaced(1), 0, [0, 1, 10]),
        (lambda step: step == 5, 0, [5]),
        (50, 0, [0]),
    ],
)
def test_scheduled_steps_have_hooks_and_no_others(every: object, first: int, steps: list[int]) -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    on = []
    with gl.watch(model, optimizer, every=every, first=first) as watch:
        for step in range(11):
            on.append(hooks(model) > 0)
            train(model, optimizer, 1, first=step)
    assert [step for step, hooked in enumerate(on) if hooked] == steps
    assert sorted(watch.result().frame["step"].unique()) == steps
    assert hooks(model) == 0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_the_training_is_what_it_would_be_without() -> None:
    ends = []
    for watching in (True, False):
        model = nn.Sequential(made(), nn.Dropout(0.3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        watch = gl.watch(model, optimizer, every=2) if watching else None
        torch.manual_seed(7)
        with watch or torch.enable_grad():
            for step in range(5):
                train(model, optimizer, 1, first=step)
                scheduler.step()
        ends.append((model.state_dict(), optimizer.state_dict()["state"], torch.get_rng_state()))
        if watch is not None:
            rates = watch.result().frame.query("statistic == 'learning_rate'")["value"].tolist()
            assert rates == pytest.approx([1e-2, 5e-3, 2.5e-3])
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])
    assert all(
        torch.equal(a, b[k])
        for s, b in zip(ends[0][1].values(), ends[1][1].values(), strict=True)
        for k, a in s.items()
    )
    assert torch.equal(ends[0][2], ends[1][2])


def test_micro_batches_are_one_step_and_validation_is_none() -> None:
    kind = lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 8), nn.ReLU(), nn.Linear(8, 3))  # noqa: E731
    frames = []
    for parts in (1, 3):
        model = made(kind)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with gl.watch(model, optimizer, every=2) as watch:
            for step in range(3):
                x, y = batch(step)
                for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                    (F.cross_entropy(model(a), b) / parts).backward()
                optimizer.step()
                optimizer.zero_grad()
                model.eval()
                with torch.no_grad():
                    model(10 * x)
                with torch.inference_mode():
                    model(10 * x)
                model.train()
        frames.append(watch.result().frame)
    one, three = frames
    assert one[["step", "layer", "statistic"]].astype(str).equals(three[["step", "layer", "statistic"]].astype(str))
    # A weight that has not moved before the first step turns by rounding alone.
    torch.testing.assert_close(torch.tensor(one["value"]), torch.tensor(three["value"]), rtol=2e-5, atol=1e-7)


def test_clipping_is_told_apart() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        x, y = batch(0)
        F.cross_entropy(model(x), y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01).item()
        optimizer.step()
    total = values(watch.result().frame, 0, "total")
    assert total["grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert total["grad_norm_clipped"] == pytest.approx(0.01, rel=1e-4)
    # To first order the loss falls by the rate times gradient and clipped gradient.
    assert total["predicted_loss_change"] == pytest.approx(-0.1 * norm * 0.01, rel=1e-4)
    assert total["update_cosine"] == pytest.approx(1.0, abs=1e-7)


def test_numbers_of_ones_own_and_the_loss_after_the_step() -> None:
    model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 3), nn.BatchNorm1d(3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    x, y = batch(0)
    running = []
    with gl.watch(model, optimizer, every=2) as watch:
        for step in range(2):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            running.append(model[2].running_mean.clone())
            watch.log(again=lambda: F.cross_entropy(model(x), y), accuracy=0.5, step_twice=torch.tensor(2 * step))
            optimizer.step()
            assert torch.equal(model[2].running_mean, running[-1])
            if step == 0:
                change = F.cross_entropy(model.train()(x), y) - loss
            optimizer.zero_grad()
    frame = watch.result().frame
    total = values(frame, 0, "total")
    assert total["actual_loss_change"] == pytest.approx(change.item(), rel=1e-3)
    assert total["predicted_loss_change"] == pytest.approx(change.item(), rel=0.05)
    assert (total["accuracy"], total["step_twice"]) == (0.5, 0)
    assert sorted(frame["step"].unique()) == [0]


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


def test_units_that_are_0_for_every_input_are_dead() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.Softmax(-1))
    nn.init.constant_(model[0].bias, 5.0)
    with torch.no_grad():
        model[0].bias[:3] = -1000.0
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([9.0, 0.0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gl.watch(model, optimizer, every=1) as watch:
        model(torch.randn(32, 4, generator=torch.Generator().manual_seed(0))).sum().backward()
        optimizer.step()
    frame = watch.result().frame
    found = values(frame, 0, "0")
    assert (found["dead_units"], found["zero_fraction"]) == (0.5, 0.5)
    # e⁻⁹ of the weight is elsewhere.
    assert values(frame, 0, "2")["saturated_fraction"] == 1.0


@pytest.mark.parametrize("since", ["of the step", "since the last record"])
def test_units_that_live_between_records_are_not_dead(since: str) -> None:
    """Against the activations of every pass, of a net of which a unit wakes up for single batches alone."""
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 40), nn.Sigmoid(), nn.Linear(40, 8), nn.Hardtanh())
    model = model.requires_grad_(True)
    with torch.no_grad():
        model[0].bias.copy_(torch.linspace(-4, 1, 40))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(0)
    silent = torch.ones(40, dtype=torch.bool)
    expected = []
    with gl.watch(model, optimizer, every=4, dead_units=since) as watch:
        for step in range(9):
            for _ in range(2):
                x = torch.randn(6, 4, generator=generator)
                model(x).sum().backward()
                quiet = (model[1](model[0](x)) == 0).all(0)
                silent &= quiet
            with torch.no_grad():
                model(torch.full((3, 4), 100.0))
            optimizer.step()
            if step % 4 == 0:
                expected.append(silent.double().mean().item())
            if step % 4 == 0 or (since == "of the step" and step % 4 == 3):
                silent = torch.ones(40, dtype=torch.bool)
    found = [values(watch.result().frame, step, "0")["dead_units"] for step in (0, 4, 8)]
    assert found == pytest.approx(expected)
    assert 0 < expected[1] < 1
    assert hooks(model) == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: torch.load(saved(model), weights_only=False)])
def test_copies_carry_no_hook_that_fires(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        twin = copied(model)
        twin(batch(9)[0]).sum().backward()
        train(model, optimizer, 1)
    with gl.watch(again := made(), other := torch.optim.SGD(again.parameters(), lr=0.1), every=1) as alone:
        train(again, other, 1)
    assert watch.result().frame.equals(alone.result().frame)


def saved(model: nn.Module) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_come_off_on_an_exception(error: type[BaseException]) -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(error), gl.watch(model, optimizer, every=1) as watch:  # noqa: PT012
        train(model, optimizer, 2)
        model(batch(2)[0])
        raise error
    assert hooks(model) == 0
    assert sorted(watch.result().frame["step"].unique()) == [0, 1]


def test_a_compiled_model_is_eager_at_measured_steps_alone() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ran = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        def call(*args: object) -> object:
            ran.append(watch.steps[0])
            return graph(*args)

        return call

    compiled = torch.compile(model, backend=backend)
    with warnings.catch_warnings(), gl.watch(compiled, optimizer, every=3) as watch:
        warnings.filterwarnings("ignore", "the model is compiled: it runs eagerly")
        for step in range(5):
            train(compiled, optimizer, 1, first=step)
    assert set(ran) == {1, 2, 4}
    assert values(watch.result().frame, 3, "deep")["response_std"] > 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"every": 0}, "from 1 on"),
        ({"measure": ["weights"]}, "what can be measured is responses"),
        ({"layers": "nowhere"}, "no layer of Net matches"),
        ({"dead_units": "ever"}, "'of the step' or 'since the last record', not 'ever'"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, object], words: str) -> None:
    model = made()
    with pytest.raises(gl.UsageError, match=words):
        gl.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), **wrong)


def test_what_is_no_optimizer_is_refused() -> None:
    model = made()
    for other in (model, [], None, ["adam"]):
        with pytest.raises(gl.UsageError, match="optimizer"):
            gl.watch(model, other)
    with gl.watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as watch:
        pass
    with pytest.raises(gl.GradlabError, match="measured no step"):
        watch.result()


def test_rows_go_to_sinks_as_they_come() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    taken: list[dict[str, object]] = []

    class Sink:
        def write(self, rows: list[dict[str, object]]) -> None:
            taken.extend(rows)

    counts = []
    with gl.watch(model, optimizer, every=2, sinks=[Sink(), lambda rows: counts.append(len(rows))]) as watch:
        for step in range(3):
            train(model, optimizer, 1, first=step)
    frame = watch.result().frame
    assert sum(counts) == len(taken) == len(frame)
    assert len(counts) == 2
    texts = dict.fromkeys(("layer", "block", "statistic"), str)
    assert pd.DataFrame(taken).equals(frame[["step", "layer", "index", "block", "statistic", "value"]].astype(texts))


def test_blocks_are_named() -> None:
    model = gl.build("resnet8@init")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        model(torch.randn(2, 3, 32, 32)).sum().backward()
        optimizer.step()
    blocks = watch.result().frame.drop_duplicates("layer").set_index("layer")["block"]
    assert (blocks["conv1"], blocks["layer2.0.conv2"], blocks["total"]) == ("", "layer2.0", "")
    assert math.isfinite(values(watch.result().frame, 0, "layer2.0.conv2")["grad_norm"])


def test_a_result_is_saved_drawn_and_loaded(tmp_path: Path) -> None:
    model = gl.build("resnet8@init")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        for _ in range(2):
            model(torch.randn(2, 3, 32, 32)).sum().backward()
            optimizer.step()
    result = watch.result()
    result.save(tmp_path, ("png",))
    again = gl.DynamicsResult.load(tmp_path)
    columns = ["network", "step", "layer", "index", "block", "statistic", "value"]
    texts = dict.fromkeys(("network", "layer", "block", "statistic"), str)
    assert again.frame[columns].astype(texts).equals(result.frame[columns].astype(texts))
    assert again.summary().equals(result.summary())
    assert again.findings() == result.findings()
    assert result.coverage.layers_measured == 8


def test_a_recorded_step_leaves_nothing_for_the_garbage_collector() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1):
        train(model, optimizer, 3)
        gc.collect()
        gc.disable()
        try:
            kept = len(gc.get_objects())
            train(model, optimizer, 5, first=3)
            left = gc.collect()
        finally:
            gc.enable()
        assert left == 0
        assert len(gc.get_objects()) - kept < 50
