"""`NonfiniteOrigin` in a training loop: the step, updates, accumulation and gradient scaling."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.autograd import forward_ad

from gradlab.probes.nonfinite import NonfiniteOrigin

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_clean_loop(optimizer: type[torch.optim.Optimizer]) -> None:
    model = _net()
    steps = optimizer(model.parameters(), lr=0.01)
    with NonfiniteOrigin(model) as probe:
        for _ in range(5):
            steps.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            steps.step()
        assert probe.origin() is None
    assert (probe.steps, probe.found) == (5, False)


def test_same_training_with_the_probe() -> None:
    states = []
    for watched in (False, True):
        model = _net()
        steps = torch.optim.AdamW(model.parameters())
        probe = NonfiniteOrigin(model)
        if watched:
            probe.__enter__()
        for _ in range(3):
            steps.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            steps.step()
        probe.__exit__()
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert states[0].equal(states[1])


def test_step_of_a_bad_batch() -> None:
    model = _net()
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [X.clone() for _ in range(6)]
    batches[3][2, 1] = float("nan")
    with NonfiniteOrigin(model) as probe:
        for x in batches:
            steps.zero_grad()
            F.cross_entropy(model(x), Y).backward()
            steps.step()
    origin = probe.origin()
    assert origin is not None
    assert (origin.step, origin.layer, origin.cause, origin.operation) == (3, "0", "input", "matmul")
    assert str(origin).startswith("At step 3: the input itself holds NaN")


def test_update_that_spoils_a_weight() -> None:
    model = _net()
    steps = torch.optim.AdamW(model.parameters(), eps=0.0)
    dead = X.clone()
    dead[:, 2] = 0
    with NonfiniteOrigin(model) as probe:
        steps.zero_grad()
        F.cross_entropy(model(dead), Y).backward()
        steps.step()
    origin = probe.origin()
    assert origin is not None
    assert (origin.step, origin.direction, origin.value) == (0, "update", "NaN")
    assert "in the optimizer's update" in str(origin)


def test_weight_that_held_nan_before() -> None:
    model = _net()
    model[2].weight.data[0, 0] = float("nan")
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    with NonfiniteOrigin(model) as probe:
        F.cross_entropy(model(X), Y).backward()
        steps.step()
    origin = probe.origin()
    assert origin is not None
    assert (origin.cause, origin.tensor, origin.step) == ("weight", "2.weight", 0)


def test_accumulated_batches() -> None:
    model = _net()
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    with NonfiniteOrigin(model) as probe:
        for batch in range(4):
            F.cross_entropy(model(X * (float("inf") if batch == 2 else 1)), Y).backward()
        steps.step()
    origin = probe.origin()
    assert origin is not None
    assert origin.layer in ("0", None)


@pytest.mark.parametrize("fused", [False, True])
def test_step_that_a_scaler_skips_is_no_fault(fused: bool) -> None:
    model = _net()
    steps = torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
    scaler = GradScaler("cpu", init_scale=2.0**40)
    with NonfiniteOrigin(model) as probe:
        for _ in range(40):
            steps.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = F.cross_entropy(model(10 * X), Y)
            scaler.scale(loss).backward()
            scaler.step(steps)
            scaler.update()
            assert probe.origin() is None
    assert scaler.get_scale() < 2.0**40
    assert 0 < probe.steps < 40
    assert not probe.found


def test_forward_passes_alone() -> None:
    model = _net()
    with torch.no_grad(), NonfiniteOrigin(model) as probe:
        model(X)
        assert probe.origin() is None
        model(X.log())
    origin = probe.origin()
    assert origin is not None
    assert (origin.layer, origin.operation, origin.direction) == (None, "log", "forward")


def test_nothing_stays_behind() -> None:
    model = _net()
    probe = NonfiniteOrigin(model)
    with pytest.raises(ZeroDivisionError), probe:
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


class _Steep(nn.Module):
    """It is smooth but for its derivative, which is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x).abs().sqrt() + x


def _steep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), _Steep(), nn.Linear(8, 3))


STEEP = (
    "At step 0: sqrt in layer 1 (_Steep) gives the first inf, in the backward pass: its derivative is infinite there"
)


def test_step_within_the_backward_pass() -> None:
    """The layers after the fault have been changed, and their gradients thrown away, when it arises."""
    model = _steep()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def step_within(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(step_within)
    with NonfiniteOrigin(model) as probe:
        for _ in range(2):
            F.cross_entropy(model(X), Y).backward()
    assert str(probe.origin()).startswith(STEEP)


def test_update_within_the_backward_pass() -> None:
    model = _net()
    optimizers = {p: torch.optim.SGD([p], lr=float("inf")) for p in model.parameters()}
    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    with NonfiniteOrigin(model) as probe:
        F.cross_entropy(model(X), Y).backward()
    assert "in the optimizer's update" in str(probe.origin())


def test_backward_pass_that_fails_after_a_step_within_it() -> None:
    model = _net()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())

    def fail(gradient: Tensor) -> None:
        raise RuntimeError("as when memory is short")

    bad = X.clone()
    bad[2, 1] = float("nan")
    with NonfiniteOrigin(model) as probe:
        hook = model[1].register_forward_hook(lambda module, args, output: output.register_hook(fail) and None)
        with pytest.raises(RuntimeError, match="as when memory is short"):
            F.cross_entropy(model(X), Y).backward()
        hook.remove()
        for x in (X, X, bad):
            F.cross_entropy(model(x), Y).backward()
    assert (probe.steps, probe.found) == (2, True)
    assert str(probe.origin()).startswith("At step 2: the input itself holds NaN")


def test_step_of_a_bad_micro_batch() -> None:
    model = _net()
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    with NonfiniteOrigin(model) as probe:
        for step in range(3):
            for part in (X / (step != 2), X):
                F.cross_entropy(model(part), Y).backward()
            steps.step()
            steps.zero_grad()
    assert str(probe.origin()).startswith("At step 2: div outside of the model")


def test_closure_that_a_step_calls_again() -> None:
    model = _steep()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    with NonfiniteOrigin(model) as probe:
        optimizer.step(closure)
    assert str(probe.origin()).startswith(STEEP)


def test_overflow_of_float64() -> None:
    model = _net().double()
    steps = torch.optim.SGD(model.parameters(), lr=1e300)
    with NonfiniteOrigin(model) as probe:
        for _ in range(3):
            F.cross_entropy(model(X.double()), Y).backward()
            steps.step()
            steps.zero_grad()
    assert "overflow of float64" in str(probe.origin())


def test_model_in_vmap() -> None:
    model = nn.Sequential(nn.Linear(6, 4), _Log())
    with NonfiniteOrigin(model) as probe:
        torch.func.vmap(model)(X)
        origin = probe.origin()
    assert str(origin).startswith("log in layer 1 (_Log) gives the first −inf, in the forward pass")


class _Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x).log()


@pytest.mark.parametrize("transform", ["jvp", "dual"])
def test_forward_mode_differentiation(transform: str) -> None:
    """Its zeros, which lie in no memory, are finite; what is not is found as elsewhere."""
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    tangents, found = [], []
    for x in (X, X.where(X < 1.5, float("inf"))):
        with NonfiniteOrigin(model) as probe:
            if transform == "jvp":
                tangents.append(torch.func.jvp(model, (x,), (torch.ones_like(X),))[1])
            else:
                with forward_ad.dual_level():
                    dual = model(forward_ad.make_dual(x, torch.ones_like(X)))
                    tangents.append(forward_ad.unpack_dual(dual).tangent)
            found.append(probe.origin())
    assert tangents[0].equal(torch.func.jvp(model, (X,), (torch.ones_like(X),))[1])
    assert found[0] is None
    assert "input" in str(found[1])
