"""The std of every response of a network, in one forward pass, by other tools."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.paired import Subject, Tool, Way
from benchmarks.peers.composer import ACTIVATIONS
from benchmarks.responses import NaiveHooks


@contextmanager
def naive_hooks(subject: Subject) -> Iterator[Way]:
    """`out.std().item()` in a forward hook on every module whose output is a response."""
    counts = torch.tensor([_shape(subject, name).numel() for name in subject.responses])
    with NaiveHooks(subject.model) as hooks:

        def run() -> None:
            hooks.stds = []
            subject.model(subject.inputs)

        population = ((counts - 1) / counts).sqrt()
        yield Way(run, lambda: torch.tensor(hooks.stds) * population, but="divisor n − 1")


@contextmanager
def compiled_naive_hooks(subject: Subject) -> Iterator[Way]:
    """The same hooks on a model that is compiled with them."""
    # By default torch runs what it compiled of an equal model without hooks, and these are left out in silence.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    with naive_hooks(subject) as way:
        subject.model = torch.compile(subject.model)
        yield way


def _shape(subject: Subject, name: str) -> torch.Size:
    """The shape of a module's output."""
    shapes: list[torch.Size] = []
    handle = subject.model.get_submodule(name).register_forward_hook(lambda *args: shapes.append(args[-1].shape))
    # In eval mode, so that no buffer changes.
    mode = subject.model.training
    with torch.no_grad():
        subject.model.eval()(subject.inputs)
    subject.model.train(mode)
    handle.remove()
    return shapes[0]


@contextmanager
def nnsight(subject: Subject) -> Iterator[Way]:
    """A trace that saves the std of each output."""
    from nnsight import NNsight

    model, found = NNsight(subject.model), [torch.empty(0)]
    modules = [model.get(name) for name in subject.responses]

    def run() -> None:
        with model.trace(subject.inputs):
            stds = list().save()  # noqa: C408 - nnsight looks for this call
            for module in modules:
                stds.append(module.output.std(correction=0))
        found[:] = stds

    yield Way(run, lambda: torch.stack(found))


@contextmanager
def torchlens_trace(subject: Subject) -> Iterator[Way]:
    """TorchLens as it is commonly used: every operation's output is kept, and the std taken of some."""
    import torchlens

    found: list[Tensor] = []

    def run() -> None:
        trace = torchlens.trace(subject.model, subject.inputs)
        found[:] = [trace.modules[name].out.std(correction=0) for name in subject.responses]

    yield Way(run, lambda: torch.stack(found), but="with all activations and the graph")


@contextmanager
def torchlens_record(subject: Subject) -> Iterator[Way]:
    """TorchLens at its least: it keeps the std of the outputs asked for, and nothing else."""
    import torchlens

    names, found = set(subject.responses), [torch.empty(0)]

    def run() -> None:
        recording = torchlens.record(
            subject.model,
            subject.inputs,
            save=lambda context: context.kind == "op" and context.address in names,
            activation_transform=lambda output: output.std(correction=0),
            save_raw_activations=False,
        )
        found[:] = [entry.transformed_ram_payload for entry in recording]

    yield Way(run, lambda: torch.stack(found))


@contextmanager
def torchinstruments(subject: Subject) -> Iterator[Way]:
    """TorchInstruments by its defaults, of every pass: nine statistics, quantiles among them, and histograms."""
    import polars
    from torchinstruments import inject_observer, remove_observer

    names = subject.responses
    with tempfile.TemporaryDirectory() as folder:

        def values() -> Tensor:
            history = polars.read_parquet(Path(folder) / "history.parquet").filter(polars.col("metric") == "std")
            last = {row["layer"]: row["value"] for row in history.sort("sample_id").iter_rows(named=True)}
            return torch.tensor([last[name] for name in names])

        inject_observer(
            subject.model,
            interval=timedelta(microseconds=1),
            output_dir=folder,
            selector=lambda name, module: name in names,
        )
        try:
            yield Way(lambda: subject.model(subject.inputs), values, but="with quantiles and histograms")
        finally:
            remove_observer(subject.model)


RESPONSES = (
    Tool("out.std().item() in hooks", naive_hooks),
    Tool("nnsight", nnsight, "nnsight"),
    Tool("TorchLens, record", torchlens_record, "torchlens"),
    Tool("TorchLens, trace", torchlens_trace, "torchlens"),
    Tool("TorchInstruments", torchinstruments, "torchinstruments"),
    ACTIVATIONS,
)
COMPILED = Tool("out.std().item() in hooks", compiled_naive_hooks)
