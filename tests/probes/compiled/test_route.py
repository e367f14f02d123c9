"""ResponseStd on compiled models, against plain hooks on the same models as they are."""

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import gradlab as gl
from gradlab.models import create
from gradlab.stats.custom_ops import WIDTH, add_moments

Answer = dict[tuple[str, int], float]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def brute_force(model: nn.Module, batches: list[Tensor], read: dict[str, str]) -> Answer:
    """Std of all values that modules return, in float64.

    Args:
        model: A model that is not compiled, of which a copy runs.
        batches: Its inputs.
        read: Where the response of each layer is read: the name of a module.
    """
    model = copy.deepcopy(model)
    seen: dict[tuple[str, int], list[Tensor]] = {}
    for x in batches:
        calls: dict[str, int] = {}

        def note(layer: str, output: Tensor, calls: dict[str, int] = calls) -> None:
            calls[layer] = calls.get(layer, 0) + 1
            seen.setdefault((layer, calls[layer]), []).append(output.detach().double().flatten())

        handles: list[RemovableHandle] = []
        for layer, name in read.items():
            module = model.get_submodule(name)
            handles.append(module.register_forward_hook(lambda m, a, output, layer=layer: note(layer, output)))
        model(x)
        for handle in handles:
            handle.remove()
    return {site: torch.cat(values).std(correction=0).item() for site, values in seen.items()}


def answer(probe: gl.ResponseStd) -> Answer:
    frame = probe.result().to_frame()
    return dict(zip(zip(frame["layer"], frame["call"], strict=True), frame["std"], strict=True))


def counted_passes(probe: gl.ResponseStd) -> tuple[int, int]:
    """How many passes ran in compiled code, and how many in all, by what the result says."""
    (note,) = [note for note in probe.result().notes if "compiled code" in note]
    compiled, _, passes, *_ = note.split()
    return int(compiled), int(passes)


def compiled_passes(probe: gl.ResponseStd) -> int:
    return counted_passes(probe)[0]


def run(model: nn.Module, batches: list[Tensor], **options: Any) -> gl.ResponseStd:
    with torch.no_grad(), gl.ResponseStd(model, **options) as probe:
        for x in batches:
            model(x)
    return probe


class Normalized(nn.Module):
    """A convolution that is normalized, one that is not, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.c, self.act = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.act(self.norm(self.a(x))))
        x = self.c(self.act(self.c(self.act(x))))
        return self.head(x.mean((2, 3)))


READ = {"a": "norm", "b": "b", "c": "c", "head": "head"}


def images(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 2, 6, 6, generator=generator) for n in sizes]


@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_passes_after_the_first_run_in_compiled_code(how: str) -> None:
    model, batches = Normalized().eval(), images(5, 5, 5)
    right = brute_force(model, batches, READ)
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(sum(node.target is add_moments for node in graph.graph.nodes))
        return graph.forward

    if how == "wrapper":
        compiled: Any = torch.compile(model, backend=backend)
    else:
        model.compile(backend=backend)
        compiled = model
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(batches[0])
        probe = gl.ResponseStd(compiled)
        for some in (batches[:2], batches[2:]):
            with probe:
                for x in some:
                    compiled(x)
        # Both ways in are as they were: nothing is compiled again, and nothing is measured.
        compiled(batches[0])
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 2
    assert graphs == [0, 5]


def resnet() -> tuple[nn.Module, list[Tensor], dict[str, str]]:
    model = create("resnet20").eval()
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    read = dict(zip(convolutions, norms, strict=True))
    heads = {name: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    batches = list(torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return model, batches, {**read, **heads}


def gpt() -> tuple[nn.Module, list[Tensor], dict[str, str]]:
    model = gl.build("gpt3-width=64@init").eval()
    read = {n: n for n, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)}
    tokens = torch.randint(0, model.vocabulary, (3, 2, 12), generator=torch.Generator().manual_seed(0))
    return model, list(tokens), read


@pytest.mark.parametrize(("make", "backend"), [(resnet, "eager"), (gpt, "aot_eager")])
def test_networks(make: Callable[[], tuple[nn.Module, list[Tensor], dict[str, str]]], backend: str) -> None:
    model, batches, read = make()
    right = brute_force(model, batches, read)
    probe = run(torch.compile(model, backend=backend), batches)
    found = answer(probe)
    assert found == pytest.approx({site: right[site] for site in found}, rel=1e-6)
    assert {name for name, _ in found} == set(read)
    assert compiled_passes(probe) == 2


@pytest.mark.slow
def test_inductor() -> None:
    model, batches = Normalized().eval(), images(5, 5, 5)
    right = brute_force(model, batches, READ)
    probe = run(torch.compile(model), batches)
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 2


def test_training_goes_on_as_it_would() -> None:
    model, batches = Normalized().train(), images(5, 5, 5, 5)
    twin = copy.deepcopy(model)
    right = brute_force(model, batches, READ)
    compiled, other = torch.compile(model, backend="aot_eager"), torch.compile(twin, backend="aot_eager")
    with gl.ResponseStd(compiled) as probe:
        for x in batches:
            compiled(x).square().sum().backward()
    for x in batches:
        other(x).square().sum().backward()
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 3
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("dynamic", "in_compiled_code"), [(None, 5), (True, 6), (False, 5)])
def test_batches_of_several_sizes(dynamic: bool | None, in_compiled_code: int) -> None:
    """Once two sizes have shown where responses are, others begin in compiled code; symbols stand for all of them."""
    model, batches = Normalized().eval(), images(5, 5, 7, 7, 5, 7, 3)
    right = brute_force(model, batches, READ)
    probe = run(torch.compile(model, backend="eager", dynamic=dynamic), batches)
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == in_compiled_code


def test_more_sizes_than_torch_compiles_for_run_eagerly_and_it_is_said() -> None:
    model, sizes = Normalized().eval(), [5, 7, 3, 4, 6, 8]
    batches = images(*sizes, *sizes)
    right = brute_force(model, batches, READ)
    with torch._dynamo.config.patch(recompile_limit=3), pytest.warns(UserWarning, match="runs eagerly"):
        probe = run(torch.compile(model, backend="eager", dynamic=False), batches)
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 6


class Breaks(Normalized):
    """A graph break: what happens depends on a value."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        return self.head((self.b(x) if x.sum() > 0 else self.c(x)).mean((2, 3)))


class Prints(Normalized):
    """A graph break between two layers, after a number has come to the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        print(f"{x.sum().item():.0f}"[:0], end="")
        return self.head(self.b(x).mean((2, 3)))


class Tied(Normalized):
    """A function applies a layer's weight outside of it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.conv2d(x, self.a.weight, padding=1)[:, :2])


class Longer(nn.Module):
    """Large batches take another way."""

    def __init__(self, other: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.other = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), other

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x))) if x.shape[0] < 6 else self.other(self, x)


def said(record: list[warnings.WarningMessage]) -> str:
    return " ".join(str(warning.message) for warning in record)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(Breaks, "torch.compile gives up"), (Prints, "torch.compile gives up"), (Tied, "functions may apply weights")],
)
def test_what_cannot_be_proved_runs_eagerly_and_says_so(make: Callable[[], nn.Module], reason: str) -> None:
    model, batches = make().eval(), images(5, 5, 5)
    with torch.no_grad(), gl.ResponseStd(model) as eager:
        for x in batches:
            model(x)
    with pytest.warns(UserWarning, match="runs eagerly") as record:
        probe = run(torch.compile(model, backend="eager"), batches)
    assert reason in said(record)
    assert answer(probe) == pytest.approx(answer(eager), rel=1e-12)
    assert compiled_passes(probe) == 0


def doubled(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    x.mul_(2)
    return net.b(net.norm(x))


OTHERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "called in another way": lambda net, x: net.b(net.norm(net.a(net.a(x)))),
    "other layers are normalized": lambda net, x: net.b(net.norm(net.a(x) + 1)),
    "functions normalize": lambda net, x: F.layer_norm(net.b(net.norm(net.a(x))), (4,)),
    "uses the weight of a layer": lambda net, x: net.b(net.norm(net.a(x @ net.a.weight))),
    "changed in place": doubled,
}


@pytest.mark.parametrize("reason", OTHERS)
def test_another_way_through_the_model_is_noticed(reason: str) -> None:
    """Sizes that are symbols have one plan, from which a graph for large batches differs."""
    model = Longer(OTHERS[reason]).eval()
    batches = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 4, 8, 9, 3)]
    with torch.no_grad(), gl.ResponseStd(model) as eager:
        for x in batches:
            model(x)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        probe = run(torch.compile(model, backend="eager", dynamic=True), batches)
    assert answer(probe) == pytest.approx(answer(eager), rel=1e-6)
    assert reason in said(record)


class Repeats(Normalized):
    """An argument says how often a layer runs."""

    def forward(self, x: Tensor, times: int = 2) -> Tensor:
        x = self.norm(self.a(x))
        return self.head(torch.stack([self.c(x) for _ in range(times)]).sum((0, 3, 4)))


def in_all_modes(called: Any, model: Any) -> None:
    """Modes, precisions, weights that change, and weights without gradients, twice each."""
    for precision in (True, False):
        for training in (True, False):
            model.train(training)
            for x in images(5, 5):
                with torch.autocast("cpu", torch.bfloat16, enabled=precision):
                    called(x).float().square().sum().backward()
            with torch.no_grad():
                for x in images(5, 5):
                    called(x)
        with torch.no_grad():
            model.b.weight = nn.Parameter(1.5 * model.b.weight)
        model.a.requires_grad_(False)


def repeated(called: Any, model: Any) -> None:
    model.eval()
    for times in (2, 2, 3, 3, 2, 1, 1, 4, 4):
        called(images(5)[0], times)


def in_longer_batches(called: Any, model: Any) -> None:
    """Two sizes that have the same way through the model, and then one that has another."""
    for n in (5, 4, 5, 3, 8, 8, 9, 4):
        called(torch.randn(n, 4, generator=torch.Generator().manual_seed(n)))


WAYS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Any], None], int]] = {
    "modes, precisions and other weights": (Normalized, in_all_modes, 12),
    "an argument": (Repeats, repeated, 5),
    "sizes with a way of their own": (lambda: Longer(OTHERS["called in another way"]), in_longer_batches, 4),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_pass_has_its_own_compiled_code(way: str) -> None:
    make, go, in_compiled_code = WAYS[way]
    torch.manual_seed(0)
    model = make()
    twin = copy.deepcopy(model)
    with gl.ResponseStd(twin) as eager:
        go(twin, twin)
    compiled: Any = torch.compile(model, backend="aot_eager")
    with warnings.catch_warnings(), gl.ResponseStd(compiled) as probe:
        warnings.filterwarnings("error", ".*eagerly.*")
        go(compiled, model)
    assert answer(probe) == pytest.approx(answer(eager), rel=2e-6)
    assert probe.result().to_frame()["count"].tolist() == eager.result().to_frame()["count"].tolist()
    assert compiled_passes(probe) == in_compiled_code
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        # Compiled code may round to bfloat16 elsewhere.
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-2)


def test_what_other_batches_show_to_be_normalized_is_measured_there_alone() -> None:
    model = Longer(lambda net, x: net.b(net.a(x))).eval()
    batches = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (8, 8, 8, 5, 5)]
    with torch.no_grad(), gl.ResponseStd(model) as eager:
        for x in batches:
            model(x)
    probe = run(torch.compile(model, backend="eager"), batches)
    assert answer(probe) == pytest.approx(answer(eager), rel=1e-6)
    assert [note for note in probe.result().notes if "compiled" not in note] == eager.result().notes
    assert compiled_passes(probe) == 3


def test_a_pass_that_fails_is_not_counted() -> None:
    model, batches = Normalized().eval(), images(5, 5, 5, 5)
    right = brute_force(model, [batches[0], batches[1], batches[3]], READ)
    fails = itertools.count()

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*values: Any) -> Any:
            outputs = graph.forward(*values)
            if next(fails) == 1:
                raise MemoryError("no memory")
            return outputs

        return run

    compiled = torch.compile(model, backend=backend)
    with torch.no_grad(), gl.ResponseStd(compiled) as probe:
        for x in batches:
            try:
                compiled(x)
            except MemoryError:
                assert x is batches[2]
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 2


def test_hooks_of_others_and_calls_of_parts_count() -> None:
    model, batches = Normalized().eval(), images(5, 5, 5, 5)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad(), gl.ResponseStd(compiled) as probe:
        compiled(batches[0])
        compiled(batches[1])
        handle = model.b.register_forward_hook(lambda module, args, output: 3 * output)
        compiled(batches[2])
        handle.remove()
        compiled(batches[3])
        model.b(torch.ones(2, 4, 3, 3))
    seen = [model.b(model.norm(model.a(x)).relu()) * (3 if x is batches[2] else 1) for x in batches]
    values = torch.cat([part.detach().double().flatten() for part in [*seen, model.b(torch.ones(2, 4, 3, 3))]])
    assert answer(probe)["b", 1] == pytest.approx(values.std(correction=0).item(), rel=1e-6)
    assert compiled_passes(probe) == 3


def test_other_probes_have_their_eager_passes() -> None:
    model, batches = Normalized().train(), images(5, 5, 5, 5)
    right = brute_force(model, batches, READ)
    compiled = torch.compile(model, backend="eager")
    with warnings.catch_warnings(record=True) as record, gl.ResponseStd(compiled) as probe:
        warnings.simplefilter("always")
        compiled(batches[0])
        compiled(batches[1])
        with gl.ResponseGradients(compiled) as gradients, gl.ResponseStd(compiled) as inner:
            compiled(batches[2]).sum().backward()
            compiled(batches[3]).sum().backward()
    assert "other probes" in said(record)
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert gradients.result().to_frame()["response_grad_norm"].notna().sum() >= 4
    assert answer(inner).keys() == right.keys()


def test_probes_may_be_detached_in_any_order() -> None:
    """A watch is on at the first step alone, which begins before the other probe is attached."""
    model, batches = Normalized().train(), images(5, 5, 5, 5, 5)
    right = brute_force(model, batches, READ)
    compiled: Any = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    compiled(batches[0])
    watch = gl.watch(compiled, optimizer, every=100)
    with warnings.catch_warnings(record=True) as record, watch:
        with gl.ResponseStd(compiled) as probe:
            for x in batches:
                compiled(x).square().sum().backward()
                optimizer.step()
    assert answer(probe) == pytest.approx(right, rel=1e-6)
    assert compiled_passes(probe) == 4
    assert "runs eagerly" in said(record)
    assert watch.result().frame["step"].unique().tolist() == [0]
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.parametrize("how", ["wrapper", "in place"])
@pytest.mark.parametrize(("made", "leaves"), [("inside", "outer"), ("inside", "inner"), ("before", "outer")])
def test_each_of_two_probes_counts_the_passes_of_its_own_time(how: str, made: str, leaves: str) -> None:
    model, batches = Normalized().eval(), images(5, 5, 5, 5, 5, 5)
    right = {
        name: brute_force(model, batches[part], READ)
        for name, part in {"whole": slice(4), "first": slice(3), "later": slice(2, 4), "one": slice(2, 3)}.items()
    }
    if how == "wrapper":
        compiled: Any = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
        compiled = model
    attributes = dict(vars(compiled))
    outer = gl.ResponseStd(compiled)
    inner = gl.ResponseStd(compiled) if made == "before" else None
    with warnings.catch_warnings(record=True) as record, torch.no_grad(), outer:
        warnings.simplefilter("always")
        compiled(batches[0])
        compiled(batches[1])
        with inner or gl.ResponseStd(compiled) as inner:
            compiled(batches[2])
            if leaves == "outer":
                outer.__exit__()
                compiled(batches[3])
        if leaves == "inner":
            compiled(batches[3])
    assert "other probes" in said(record)
    assert vars(compiled) == attributes
    with torch.no_grad():
        compiled(batches[4])
    first, second = ("first", "later") if leaves == "outer" else ("whole", "one")
    assert answer(outer) == pytest.approx(right[first], rel=1e-6)
    assert answer(inner) == pytest.approx(right[second], rel=1e-6)
    # No pass runs in compiled code while both are attached.
    assert counted_passes(outer) == ((1, 3) if leaves == "outer" else (2, 4))
    assert counted_passes(inner) == ((1, 2) if leaves == "outer" else (0, 1))


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    model, batches = Normalized().eval(), images(5, 5)
    batches[1][0, 0, 0, 0] = math.inf
    with torch.no_grad(), gl.ResponseStd(model) as eager:
        for x in batches:
            model(x)
    probe = run(torch.compile(model, backend="eager"), batches)
    ours, theirs = probe.result().to_frame(), eager.result().to_frame()
    assert compiled_passes(probe) == 1
    assert ours["non_finite"].tolist() == theirs["non_finite"].tolist()
    assert ours["std"].tolist() == pytest.approx(theirs["std"].tolist(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_the_operation_adds_what_a_tensor_has(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [(5 * torch.randn(n, 300, generator=generator) + 2).to(dtype) for n in (3, 500)]
    rows = torch.zeros(2, WIDTH, dtype=torch.float64)
    for x in parts:
        add_moments(rows, 1, x)
    values = torch.cat(parts).double()
    deviations = (values - values.mean()).square().sum()
    right = torch.stack((torch.tensor(float(values.numel())), values.mean(), deviations, torch.tensor(0.0)))
    torch.testing.assert_close(rows[1, : WIDTH - 1], right, rtol=1e-6, atol=0)
    assert not rows[0].any()
