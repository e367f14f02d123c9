"""Ways to run a model: other precisions and layouts, checkpoints, compilers, wrappers, threads, other probes."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab as gl
from conformance.reference import Reference
from conformance.situation import (
    INPUTS,
    RESPONSE_GRADIENTS,
    RESPONSES,
    Net,
    Situation,
    images,
    refusing,
    sequences,
    vectors,
)
from conformance.situations.networks import Parts, mlp, mlp_by_hand, normalized, normalized_by_hand, parts_by_hand
from conformance.situations.recurrent import Encoder, encoder_by_hand, encoder_rows

KIND = "Ways to run"


def autocast(dtype: torch.dtype, run: Net, x: Tensor, y: Tensor) -> None:
    with torch.autocast("cpu", dtype):
        loss = run.objective(run.net, x, y)
    run.backward(loss if run.scaler is None else run.scaler.scale(loss))
    run.step()


def autocast_objective(dtype: torch.dtype, net: Net, x: Tensor, y: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype):
        return F.cross_entropy(net(x).float(), y)


def channels_last() -> nn.Module:
    return normalized().double().to(memory_format=torch.channels_last)


def channels_last_loop(run: Net, x: Tensor, y: Tensor) -> None:
    run.backward(run.objective(run.net, x.to(memory_format=torch.channels_last), y))
    run.step()


class Checkpointed(nn.Module):
    """A block whose activations are made again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.reentrant = nn.Linear(4, 4), reentrant
        self.block, self.head = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, torch.tanh(self.stem(x)), use_reentrant=self.reentrant))


def checkpointed_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = torch.tanh(net.linear("stem", x))
    return net.linear("head", net.linear("block.2", torch.tanh(net.linear("block.0", x))))


def compiled() -> nn.Module:
    return torch.compile(mlp(), backend="eager")


def compiled_in_place() -> nn.Module:
    net = mlp()
    net.compile(backend="eager")
    return net


def compiled_around(run: Net, x: Tensor, y: Tensor) -> None:
    loss = run.objective if run.by_hand else torch.compile(run.objective, backend="eager")
    run.backward(loss(run.net, x, y))
    run.step()


class WithMethod(nn.Module):
    """A model of which a method is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.inner = torch.compile(self.inner, backend="eager")

    def inner(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.inner(x))


def with_method_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("b", torch.tanh(net.linear("a", x)))


def scripted() -> nn.Module:
    part = nn.Sequential(nn.Linear(4, 6), nn.Tanh()).double()
    return nn.Sequential(torch.jit.script(part), nn.Linear(6, 3))


def scripted_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("0.0", F.linear(x, *net.of("0.0")), demanded=False)
    return net.linear("1", torch.tanh(x))


def own_weights(run: Net, x: Tensor, y: Tensor) -> None:
    """functional_call with the model's own parameters."""
    called = run.net if run.by_hand else functools.partial(functional, run.net, dict(run.net.named_parameters()))
    run.backward(run.objective(called, x, y))
    run.step()


def functional(net: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.func.functional_call(net, weights, (x,))


def fast_weights(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """functional_call with weights that are made of the parameters."""
    weights = {name: parameter * 0.5 for name, parameter in net.named_parameters()}
    if isinstance(net, Reference):
        with net.with_weights(weights):
            return F.cross_entropy(net(x), y)
    return F.cross_entropy(functional(net, weights, x), y)


def in_a_thread(run: Net, x: Tensor, y: Tensor) -> None:
    """The forward pass in a thread, the backward pass here."""
    losses: list[Tensor] = []
    failed: list[BaseException] = []

    def forward() -> None:
        try:
            losses.append(run.objective(run.net, x, y))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=forward)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    run.backward(losses[0])
    run.step()


class Meeting(nn.Module):
    """Waits for another thread to come by, where there are two."""

    barrier: threading.Barrier | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.barrier is not None:
            self.barrier.wait(5)
        return torch.tanh(x)


def meeting() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), Meeting(), nn.Linear(6, 3))


def two_threads(run: Net, x: Tensor, y: Tensor) -> None:
    """Two forward passes at once, each with half of the batch."""
    halves = list(zip(x.chunk(2), y.chunk(2), strict=True))
    losses = [run.objective(run.net, a, b) for a, b in halves] if run.by_hand else at_once(run, halves)
    run.backward(sum(losses) / 2)
    run.step()


def at_once(run: Net, halves: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    run.net[1].barrier = threading.Barrier(2)
    losses: dict[int, Tensor] = {}
    failed: list[BaseException] = []

    def forward(number: int) -> None:
        try:
            losses[number] = run.objective(run.net, *halves[number])
        except BaseException as error:
            failed.append(error)
            run.net[1].barrier.abort()

    threads = [threading.Thread(target=forward, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.net[1].barrier = None
    if failed:
        raise min(failed, key=lambda error: isinstance(error, threading.BrokenBarrierError))
    return [losses[0], losses[1]]


def fast_path(run: Net, x: Tensor, y: Tensor) -> None:
    """Evaluation, in which torch's transformer layers may take their fused path, then training."""
    if not run.by_hand:
        run.net.eval()
    with torch.inference_mode():
        run.net(x)
    if not run.by_hand:
        run.net.train()
    run.backward(run.objective(run.net, x, y))
    run.step()


@contextmanager
def other_probes(model: nn.Module) -> Iterator[None]:
    """One of each kind, on the same model."""
    with ExitStack() as stack:
        for kind in (gl.ResponseStd, gl.ParameterGradients, gl.ResponseGradients, gl.ExampleGradients):
            stack.enter_context(kind(model))
        stack.enter_context(gl.InputGradients(model, observe=lambda gradients: None))
        yield


def alone(name: str, make: Callable[[], nn.Module], **options: object) -> Situation:
    return Situation(name, KIND, make, mlp_by_hand, **options)  # type: ignore[arg-type]


LOW = {"dtype": torch.float32, "tolerance": 1e-5, "example_tolerance": 5e-2}

SITUATIONS = [
    alone(
        "autocast to bfloat16",
        mlp,
        loop=functools.partial(autocast, torch.bfloat16),
        objective=functools.partial(autocast_objective, torch.bfloat16),
        **LOW,
    ),
    alone(
        "autocast to float16, with a GradScaler",
        mlp,
        loop=functools.partial(autocast, torch.float16),
        objective=functools.partial(autocast_objective, torch.float16),
        scaler=True,
        **{**LOW, "tolerance": 2e-3},
    ),
    Situation("channels_last", KIND, channels_last, normalized_by_hand, data=images, loop=channels_last_loop),
    Situation("activation checkpointing", KIND, lambda: Checkpointed(False), checkpointed_by_hand),
    Situation(
        "reentrant activation checkpointing",
        KIND,
        lambda: Checkpointed(True),
        checkpointed_by_hand,
        refused=refusing("use_reentrant", RESPONSE_GRADIENTS, INPUTS),
    ),
    alone("torch.compile of the model", compiled),
    alone("model.compile()", compiled_in_place),
    Situation("torch.compile of a method", KIND, WithMethod, with_method_by_hand),
    alone("torch.compile of a function around the model", mlp, loop=compiled_around),
    Situation(
        "a scripted part",
        KIND,
        scripted,
        scripted_by_hand,
    ),
    alone("functional_call with the model's own parameters", mlp, loop=own_weights),
    alone("functional_call with weights made of the parameters", mlp, objective=fast_weights),
    alone("DataParallel", lambda: nn.DataParallel(mlp())),
    alone("a forward pass in another thread", mlp, loop=in_a_thread),
    alone(
        "two forward passes in two threads at once",
        meeting,
        loop=two_threads,
        data=lambda: vectors(6),
        refused=refusing("threads", RESPONSES, RESPONSE_GRADIENTS),
    ),
    Situation(
        "the fused path of transformer layers in evaluation",
        KIND,
        Encoder,
        encoder_by_hand,
        data=sequences,
        loop=fast_path,
        rows=encoder_rows(),
    ),
    alone("other probes around it", mlp, around=other_probes),
    Situation("other probes around blocks", KIND, Parts, parts_by_hand, around=other_probes),
]
