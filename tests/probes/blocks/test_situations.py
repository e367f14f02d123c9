"""`gl.BlockSignal` in training loops, under checkpointing, beside other people's hooks, and where it has to refuse."""

from __future__ import annotations

import copy
import warnings

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab as gl

VALUES = ["stream_std", "stream_mean_square", "branch_std", "ratio", "cosine", "stream_grad_rms", "branch_grad_rms"]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(width), nn.Linear(width, width)
        self.skip = False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.skip else x + self.layer(self.norm(x)).relu_()


class Net(nn.Module):
    def __init__(self, blocks: int = 3, width: int = 8, checkpointed: bool | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(width, width), nn.Linear(width, 2)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x) if self.checkpointed is None else checkpoint(block, x, use_reentrant=self.checkpointed)
        return self.head(x)


def data(seed: int = 0, examples: int = 6) -> Tensor:
    return torch.randn(examples, 8, generator=torch.Generator().manual_seed(seed))


def measured(model: nn.Module, *inputs: Tensor, backward: bool = True) -> pd.DataFrame:
    with gl.BlockSignal(model) as probe:
        for x in inputs:
            output = model(x)
            if backward:
                output.square().mean().backward()
    return probe.result().to_frame()


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, rtol=1e-6, atol=1e-9)


def test_several_passes_are_one_of_all_examples() -> None:
    """Gradients of two means over three examples are twice those of the mean over six."""
    together, apart = measured(Net(), data()), measured(Net(), *data().split(3))
    gradients = ["stream_grad_rms", "branch_grad_rms"]
    apart[gradients] /= 2
    same(together, apart)


class OwnAdditions(nn.Module):
    """Adds what two layers of its own compute, in no module beside these."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.out = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(self.up(x).relu())
        return x + self.out(x.tanh()).relu()


def test_several_passes_of_a_model_that_adds_in_its_own_forward() -> None:
    """The stds are those of plain tensors, of all passes."""
    model = OwnAdditions().double()
    inputs = [data(seed).double() for seed in range(3)]
    found = measured(model, *inputs)["stream_std"]
    with torch.no_grad():
        x = torch.cat(inputs)
        first = x + model.down(model.up(x).relu())
        streams = [first, model(x)]
    expected = [stream.var(0, correction=0).mean().sqrt().item() for stream in streams]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_checkpointing_changes_nothing() -> None:
    plain, again = measured(Net(), data()), measured(Net(checkpointed=False), data())
    same(plain, again)


def test_reentrant_checkpointing_loses_gradients_and_says_so() -> None:
    with gl.BlockSignal(model := Net(checkpointed=True)) as probe:
        model(data().requires_grad_()).square().mean().backward()
    result, plain = probe.result(), measured(Net(), data())
    same(result.to_frame()[VALUES[:5]], plain[VALUES[:5]])
    assert result.frame["branch_grad_rms"].isna().all()
    assert any("use_reentrant=False" in note for note in result.notes)


def test_hooks_of_others_that_hand_on_aliases() -> None:
    model = Net()
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: output.view_as(output))
        module.register_forward_pre_hook(lambda module, args: tuple(x[:] for x in args))
    same(measured(model, data()), measured(Net(), data()))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: type) -> None:
    with mode():
        frame = measured(Net(), data(), backward=False)
    same(frame[VALUES[:5]], measured(Net(), data())[VALUES[:5]])
    assert frame["stream_grad_rms"].isna().all()


def test_a_pass_that_ends_in_an_exception_does_not_count() -> None:
    model = Net()
    with gl.BlockSignal(model) as probe:
        handle = model.head.register_forward_pre_hook(lambda module, args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(100 * data(1))
        handle.remove()
        model(data()).square().mean().backward()
    same(probe.result().to_frame(), measured(Net(), data()))


def test_a_block_that_some_passes_leave_out_keeps_its_place() -> None:
    model = Net()
    with gl.BlockSignal(model) as probe:
        model.blocks[1].skip = True
        model(data(1))
        model.blocks[1].skip = False
        model(data(2))
    frame = probe.result().to_frame()
    assert list(frame["block"]) == ["blocks.0", "blocks.1", "blocks.2"]
    assert list(frame["count"]) == [2 * 6 * 8, 6 * 8, 2 * 6 * 8]


def test_a_block_called_several_times_has_a_row_a_call() -> None:
    class Tied(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for _ in range(3):
                x = self.blocks[0](x)
            return self.head(x)

    frame = measured(Tied(blocks=1), data())
    assert list(frame["block"]) == ["blocks.0"] * 3
    assert list(frame["call"]) == list(frame["index"]) == [1, 2, 3]


def test_several_inputs_and_a_list_of_layers_in_the_model_itself() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))

        def forward(self, x: Tensor, *, other: Tensor) -> Tensor:
            x = self.left(x) + self.right(other)
            for layer in self.layers:
                x = x + layer(x)
            return x

    with gl.BlockSignal(model := Two()) as probe:
        model(data(0), other=data(1))
    assert list(probe.result().to_frame()["block"]) == ["layers.0", "layers.1"]


def test_what_repeats_where_nothing_is_added() -> None:
    model = nn.Sequential(
        nn.Linear(8, 8), nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2)))
    )
    frame = measured(model, data())
    assert list(frame["block"]) == ["1.0", "1.1"]
    assert frame["branch_std"].isna().all()
    hidden = model[1][0](model[0](data())).double()
    assert frame["stream_std"][0] == pytest.approx(hidden.var(0, correction=0).mean().sqrt().item(), rel=1e-6)


def test_a_custom_autograd_function_in_a_module() -> None:
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * torch.sigmoid(x)

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            s = torch.sigmoid(x)
            return gradient * (s + x * s * (1 - s))

    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Swish.apply(x)

    def made(activation: nn.Module) -> Net:
        model = Net()
        for block in model.blocks:
            block.layer = nn.Sequential(block.layer, activation)
        return model

    same(measured(made(Custom()), data()), measured(made(nn.SiLU()), data()))


def test_what_cannot_be_seen_is_said() -> None:
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.blocks[1].layer = torch.jit.script(model.blocks[1].layer)
    with gl.BlockSignal(model) as probe:
        model(data())
    result = probe.result()
    assert list(result.frame["block"]) == ["blocks.0", "blocks.2"]
    assert any(note.startswith("blocks.1: takes the output of a scripted module") for note in result.notes)


def test_float16_and_what_is_not_finite() -> None:
    model = Net().bfloat16()
    frame = measured(model, data().bfloat16())
    assert frame["stream_std"].gt(0).all()
    with torch.no_grad():
        model.blocks[1].layer.bias[0] = torch.nan
    with gl.BlockSignal(model) as probe:
        model(data().bfloat16())
    assert any("NaN" in note for note in probe.result().notes)


def test_far_means_are_said_and_exact_measures_them() -> None:
    model = Net()
    with torch.no_grad():
        model.stem.bias.add_(1e4)
    frames = []
    for exact in (False, True):
        with gl.BlockSignal(model, exact=exact) as probe:
            model(data())
        frames.append(probe.result())
    assert any("--exact" in note for note in frames[0].notes)
    assert not frames[1].notes
    hidden = model.blocks[0](model.stem(data())).double().var(0, correction=0).mean().sqrt()
    assert frames[1].frame["stream_std"][0] == pytest.approx(hidden.item(), rel=1e-9)


def test_nothing_of_the_model_changes() -> None:
    model, other = Net(), Net()
    count = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    state = torch.get_rng_state()
    with gl.BlockSignal(model):
        output = model(data())
        output.square().mean().backward()
        copied = copy.deepcopy(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == count
    assert not torch.overrides._get_current_function_mode_stack()
    other(data()).square().mean().backward()
    assert torch.equal(output, other(data()))
    copied(data())
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_a_compiled_model_runs_eagerly() -> None:
    model = torch.compile(Net(), backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(measured(model, data()), measured(Net(), data()))


def test_transforms_of_torch_func_are_refused() -> None:
    model = Net()
    with gl.BlockSignal(model), pytest.raises(gl.GradlabError, match=r"torch\.func"):
        torch.func.vmap(model)(data())


def test_no_pass_and_no_block_are_errors() -> None:
    with gl.BlockSignal(Net()) as probe:
        pass
    with pytest.raises(gl.GradlabError, match="no block of Net"):
        probe.result()
    with gl.BlockSignal(model := nn.Linear(8, 8)) as probe:
        model(data())
    with pytest.raises(gl.GradlabError, match="no block of Linear"):
        probe.result()


def test_gradients_of_several_losses_through_one_graph_add_up() -> None:
    with gl.BlockSignal(model := Net()) as probe:
        output = model(data())
        output.square().mean().backward(retain_graph=True)
        output.mean().backward()
    with gl.BlockSignal(model := Net()) as at_once:
        output = model(data())
        (output.square().mean() + output.mean()).backward()
    same(probe.result().to_frame(), at_once.result().to_frame())


def test_gradients_of_autograd_grad_do_not_count() -> None:
    with gl.BlockSignal(model := Net()) as probe:
        x = data().requires_grad_()
        torch.autograd.grad(model(x).sum(), x)
        model(data()).square().mean().backward()
    frame = probe.result().to_frame()
    plain = measured(Net(), data())
    pd.testing.assert_series_equal(frame["branch_grad_rms"], plain["branch_grad_rms"], rtol=1e-6)


@pytest.mark.parametrize("last", [False, True])
def test_a_backward_pass_that_fails_adds_no_gradients(last: bool) -> None:
    """Against plain hooks, which receive the same gradients from the passes that do not fail."""

    def fail() -> None:
        hook = model.stem.weight.register_hook(lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(data(1)).square().mean().backward()
        hook.remove()

    model = Net()
    with gl.BlockSignal(model) as probe:
        fail()
        model(data()).square().mean().backward()
        if last:
            fail()
    frame = probe.result().to_frame()
    squares: list[float] = []

    def listen(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        output.register_hook(lambda g: squares.append(g.double().square().mean().item()))

    for block in model.blocks:
        block.register_forward_hook(listen)
    model(data()).square().mean().backward()
    expected = [square**0.5 for square in reversed(squares)]
    assert frame["stream_grad_rms"].tolist() == pytest.approx(expected, rel=1e-5)


def test_tokens_are_compared_within_each_example() -> None:
    model, x = Net(), torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    with gl.BlockSignal(model, tokens=True) as probe:
        model(x[:2])
        model(x[2:])
    frame = probe.result().to_frame()
    stream = model.blocks[0](model.stem(x)).double()
    eigenvalues = torch.linalg.svdvals(stream).square()
    rank = (eigenvalues.sum(1).square() / eigenvalues.square().sum(1)).mean().item()
    cosines = torch.nn.functional.cosine_similarity(stream[:, :, None], stream[:, None], -1)
    apart = cosines[:, ~torch.eye(5, dtype=torch.bool)].mean().item()
    assert frame["token_rank"][0] == pytest.approx(rank, rel=1e-5)
    assert frame["token_cosine"][0] == pytest.approx(apart, rel=1e-5)
