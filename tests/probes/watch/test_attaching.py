"""When a watch is on, and what it leaves alone: the training, copies, hooks, compiled code and memory."""

import copy
import gc
import io
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from probes.watch.loop import batch, hooks, made, train, values
from torch import Tensor, nn

import gradlab as gl


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


def test_a_recorded_step_leaves_nothing_for_the_garbage_collector() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1):
        train(model, optimizer, 3)
        gc.collect()
        gc.disable()
        # A thread that another test has left may leave something meanwhile, but hardly in all three rounds.
        left, grown = [], []
        try:
            for first in (3, 8, 13):
                kept = len(gc.get_objects())
                train(model, optimizer, 5, first=first)
                left.append(gc.collect())
                grown.append(len(gc.get_objects()) - kept)
        finally:
            gc.enable()
        assert min(left) == 0
        assert min(grown) < 50


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


@pytest.mark.parametrize("foreign", [False, True], ids=["alone", "behind a hook of others"])
@pytest.mark.parametrize("measure", [["gradients"], ["responses", "gradients", "updates"]])
def test_swapped_parameters_get_their_hooks_back_or_a_note(
    monkeypatch: pytest.MonkeyPatch, measure: list, foreign: bool
) -> None:
    """A swapped parameter is the same object without a hook: clipped gradients passed for those of the loss."""
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    model = made()
    if foreign:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _: None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    right = []
    with gl.watch(model, optimizer, every=1, measure=measure) as watch:
        for step in range(4):
            x, y = batch(step)
            optimizer.zero_grad()
            if step == 1:
                model.double()
            F.cross_entropy(model(x.double() if step else x), y).backward()
            right.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)))
            optimizer.step()
    result = watch.result()
    found = result.to_frame().query("layer == 'total' and statistic == 'grad_norm'").set_index("step")["value"]
    seen = [0] if foreign else [0, 2, 3] if measure == ["gradients"] else [0, 1, 2, 3]
    assert found.to_dict() == pytest.approx({step: right[step] for step in seen}, rel=1e-5)
    notes = [note for note in result.notes if "torch swapped parameters" in note]
    assert [note.partition(" ")[0] for note in notes] == ([str(4 - len(seen))] if len(seen) < 4 else [])
    assert not [note for note in result.notes if "failed or had not ended" in note]
