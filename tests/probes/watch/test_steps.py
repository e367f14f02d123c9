"""Whose step it is: several optimizers, GradScalers, closures, wrappers, and steps that do not come about."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import UsageError


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(50 + step)
    return torch.randn(6, 4, generator=generator), torch.randint(3, (6,), generator=generator)


def watched(steps: int = 3) -> pd.DataFrame:
    """One optimizer in the plainest of loops."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        for step in range(steps):
            x, y = batch(step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return watch.result().frame


def same(one: pd.DataFrame, other: pd.DataFrame, rel: float = 1e-5) -> None:
    keys = ["step", "layer", "statistic"]
    one, other = (f.sort_values(keys).reset_index(drop=True) for f in (one, other))
    assert one[keys].astype(str).equals(other[keys].astype(str))
    assert one["value"].tolist() == pytest.approx(other["value"].tolist(), rel=rel, abs=1e-7)


def test_two_optimizers_that_step_together_are_one_step() -> None:
    model = net()
    optimizers = [torch.optim.SGD(model[place].parameters(), lr=0.1) for place in (0, 2)]
    with gl.watch(model, optimizers, every=1) as watch:
        for step in range(3):
            x, y = batch(step)
            for optimizer in optimizers:
                optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
    frame = watch.result().frame
    rates = frame["statistic"].isin(["learning_rate[0]", "learning_rate[1]"])
    plain = watched()
    same(frame[~rates], plain[plain["statistic"] != "learning_rate"])
    assert rates.sum() == 6


def test_two_optimizers_that_step_apart_have_records_of_their_own() -> None:
    """As a generator and its critic: each step has the passes since the step before it, and its own layers."""
    model = nn.ModuleDict({"generator": nn.Linear(2, 4), "critic": net()})
    critic = torch.optim.SGD(model["critic"].parameters(), lr=0.1)
    generator = torch.optim.SGD(model["generator"].parameters(), lr=0.1)
    losses: dict[str, list[float]] = {"total[0]": [], "total[1]": []}
    norms = []
    with gl.watch(model, [critic, generator], every=2) as watch:
        for step in range(5):
            fake = model["generator"](batch(step)[0][:, :2])
            loss = model["critic"](fake.detach()).square().mean()
            model.zero_grad()
            loss.backward()
            losses["total[0]"].append(loss.item())
            norms.append(model["critic"][0].weight.grad.norm().item())
            critic.step()
            if step % 2:
                loss = model["critic"](model["generator"](batch(step)[0][:, :2])).mean()
                model.zero_grad()
                loss.backward()
                losses["total[1]"].append(loss.item())
                generator.step()
    frame = watch.result().frame
    assert not frame[["step", "layer", "statistic"]].duplicated().any()
    for total, right in losses.items():
        found = frame[(frame["layer"] == total) & (frame["statistic"] == "loss")]
        assert found["step"].tolist() == [*range(0, len(right), 2)]
        assert found["value"].tolist() == pytest.approx(right[::2], rel=1e-6)
    first = frame[(frame["layer"] == "critic.0") & (frame["statistic"] == "grad_norm")]
    assert first["value"].tolist() == pytest.approx(norms[::2], rel=1e-6)
    assert set(frame[frame["layer"] == "generator"]["step"]) == {0}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("before", [False, True])
def test_optimizers_that_step_within_the_backward_pass(every: int, before: bool) -> None:
    """Each weight is changed and its gradient thrown away as soon as it has one, which saves memory."""
    model = net()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def step_within(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    def register() -> None:
        for parameter in optimizers:
            parameter.register_post_accumulate_grad_hook(step_within)

    if before:
        register()
    with gl.watch(model, list(optimizers.values()), every=every) as watch:
        if not before:
            register()
        for step in range(3):
            x, y = batch(step)
            F.cross_entropy(model(x), y).backward()
    frame, plain = watch.result().frame, watched()
    same(
        frame[~frame["statistic"].str.startswith("learning_rate")],
        plain[(plain["statistic"] != "learning_rate") & (plain["step"] % every == 0)],
    )
    assert watch.result().notes == []


def test_layers_that_run_before_the_step_of_another_optimizer_are_named() -> None:
    """As of a generator whose images are made once, for its critic's step and for its own."""
    model = nn.ModuleDict({"generator": nn.Linear(2, 4), "critic": net()})
    critic = torch.optim.SGD(model["critic"].parameters(), lr=0.1)
    generator = torch.optim.SGD(model["generator"].parameters(), lr=0.1)
    with gl.watch(model, [critic, generator], every=1) as watch:
        for step in range(2):
            fake = model["generator"](batch(step)[0][:, :2])
            for images, optimizer in ((fake.detach(), critic), (fake, generator)):
                loss = model["critic"](images).square().mean()
                model.zero_grad()
                loss.backward()
                optimizer.step()
    result = watch.result()
    assert not (result.frame["layer"].eq("generator") & result.frame["statistic"].eq("response_std")).any()
    (note,) = (note for note in result.notes if "before the step of another optimizer" in note)
    assert note.startswith("generator: ran before")


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_is_divided_out(unscale: bool, given: bool, fused: bool) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    with gl.watch(model, optimizer, every=1, scaler=scaler if given else None) as watch:
        for step in range(3):
            x, y = batch(step)
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    same(watch.result().frame, watched())


def test_a_step_that_a_fused_optimizer_skips_has_no_record() -> None:
    """It is called, and does nothing on the device, where nobody waits to know."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with gl.watch(model, optimizer, every=1, on_alert="raise") as watch:
        for step, bad in ((0, False), (7, True), (1, False), (8, True), (9, True), (2, False)):
            x, y = batch(step)
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y) * (float("inf") if bad else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
    result = watch.result()
    steps = {0: 0, 2: 1, 5: 2}
    assert set(result.frame["step"]) == set(steps)
    same(result.frame.assign(step=result.frame["step"].map(steps)), watched())
    assert any("3 steps are left out" in note for note in result.notes)


@pytest.mark.parametrize("to_none", [False, True])
def test_a_step_that_the_scaler_skips_is_none(to_none: bool) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with gl.watch(model, optimizer, every=1) as watch:
        for step, bad in ((0, False), (7, True), (1, False), (8, True), (9, True), (2, False)):
            x, y = batch(step)
            optimizer.zero_grad(set_to_none=to_none)
            loss = F.cross_entropy(model(x), y)
            scaler.scale(loss * (float("inf") if bad else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
    same(watch.result().frame, watched())


@pytest.mark.parametrize("keyword", [False, True])
def test_a_closure_is_looked_into_after_its_first_call(keyword: bool) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        for step in range(3):
            x, y = batch(step)

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure=closure) if keyword else optimizer.step(closure)
    same(watch.result().frame, watched())


def test_lbfgs_is_measured_at_its_first_evaluation() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    before = [p.detach().clone() for p in model.parameters()]
    x, y = batch(0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    first = F.cross_entropy(model(x), y).item()
    with gl.watch(model, optimizer, every=1) as watch:
        optimizer.step(closure)
        optimizer.step(closure)
    frame = watch.result().frame
    assert sorted(frame["step"].unique()) == [0, 1]
    total = frame[frame["layer"] == "total"].set_index(["step", "statistic"])["value"]
    plain = watched(1).query("layer == 'total'").set_index("statistic")["value"]
    assert total[0, "loss"] == pytest.approx(first, rel=1e-6)
    assert total[0, "grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-6)
    assert total[1, "loss"] < first
    moved = torch.cat([(p - b).flatten() for p, b in zip(model.parameters(), before, strict=True)]).norm().item()
    assert total[0, "update_norm"] + total[1, "update_norm"] >= moved * (1 - 1e-6)


def test_wrappers_of_other_libraries_are_seen_through() -> None:
    class Wrapper:
        """As Lightning and accelerate have them."""

        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer, self.param_groups = optimizer, optimizer.param_groups

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, Wrapper(Wrapper(optimizer)), every=1) as watch:
        for step in range(3):
            x, y = batch(step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    same(watch.result().frame, watched())


def test_several_losses_and_passes_that_do_not_count() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        x, y = batch(0)
        out = model(x)
        torch.autograd.grad(out.sum(), list(model.parameters()), retain_graph=True)
        one, other = F.cross_entropy(out, y), out.square().mean()
        one.backward(retain_graph=True)
        other.backward()
        optimizer.step()
    total = watch.result().frame.query("layer == 'total'").set_index("statistic")["value"]
    assert total["loss"] == pytest.approx((one + other).item(), rel=1e-6)


def test_nothing_is_written_of_a_parameter_without_a_gradient() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        model[0](batch(0)[0]).sum().backward()
        optimizer.step()
    rows = watch.result().frame.groupby("layer")["statistic"].agg(set)
    assert "grad_norm" in rows["0"]
    assert "grad_norm" not in rows["2"]


def test_steps_without_a_pass_are_named() -> None:
    """As replays of CUDA graphs leave gradients without calling a hook."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        for step in range(3):
            x, y = batch(step)
            optimizer.zero_grad()
            if step:
                for parameter in model.parameters():
                    parameter.grad = torch.ones_like(parameter)
            else:
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
    result = watch.result()
    assert set(result.frame.query("statistic == 'response_std'")["step"]) == {0}
    assert set(result.frame.query("statistic == 'grad_norm'")["step"]) == {0, 1, 2}
    assert [note for note in result.notes if note.startswith("2 steps had no forward pass that hooks could see")]


def test_an_optimizer_that_calls_no_hooks_is_refused() -> None:
    """As wrappers have been written that keep the averages of weights."""

    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner, self.param_groups = inner, inner.param_groups

    model = net()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match=r"^Wrapper has not called the __init__ .* the optimizer that it wraps$"):
        gl.watch(model, Wrapper(inner))
