"""How gradlab does the jobs that its peers do, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

import gradlab as gl
from benchmarks.paired import Subject, Tool, Way
from benchmarks.peers.step import Step
from gradlab.experiments.responses.known import KnownResponseStd, fastest_layout
from gradlab.experiments.subject import runner


@contextmanager
def responses(subject: Subject) -> Iterator[Way]:
    """`ResponseStd` around the passes."""
    with gl.ResponseStd(subject.model) as probe:
        yield Way(lambda: subject.model(subject.inputs), lambda: column(probe, "std"))


@contextmanager
def compiled_responses(subject: Subject) -> Iterator[Way]:
    """The same on a compiled model, inside compiled code."""
    with responses(Subject(torch.compile(subject.model), subject.inputs, subject.labels)) as way:
        yield way


@contextmanager
def responses_of_the_command(subject: Subject) -> Iterator[Way]:
    """The loop of `gradlab responses NAME@init`, which normalizes by the statistics of each batch."""
    layout = fastest_layout()
    model = runner(subject.model, "batch").to(memory_format=layout)
    inputs = subject.inputs.contiguous(memory_format=layout)
    with KnownResponseStd(model) as probe:
        yield Way(lambda: model(inputs), lambda: column(probe, "std"))


@contextmanager
def parameter_gradients(subject: Subject) -> Iterator[Way]:
    """`ParameterGradients` of all parameters, at every step."""
    step = Step(subject)
    with gl.ParameterGradients(subject.model, parameters="all") as probe:
        yield Way(lambda: step.run(before_optimizer=probe.step), lambda: column(probe, "grad_norm"))


@contextmanager
def example_gradients(subject: Subject) -> Iterator[Way]:
    """`ExampleGradients` at every step; its values end with Cockpit's norm test, √(tr Σ / N) / |G|."""
    step = Step(subject)
    with gl.ExampleGradients(subject.model) as probe:

        def values() -> Tensor:
            trace, square = column(probe, "variance").sum(), column(probe, "grad_norm").square().sum()
            test = (trace / len(subject.inputs) / square).sqrt()
            return torch.cat((column(probe, "example_norm"), test[None]))

        yield Way(lambda: step.run(probe.backward, probe.step), values)


def column(probe: gl.ResponseStd | gl.ParameterGradients | gl.ExampleGradients, name: str) -> Tensor:
    """A statistic of the layers in order of execution, at the last step that was recorded."""
    result = probe.result()
    if isinstance(result, gl.ResponsesResult):
        frame = result.to_frame()
    else:
        layers = result.layers()
        frame = layers[layers["step"] == layers["step"].max()]
    return torch.tensor(frame.sort_values("index")[name].to_numpy(dtype=float))


RESPONSES = Tool("gradlab ResponseStd", responses)
COMMAND = Tool("gradlab responses", responses_of_the_command)
COMPILED = Tool("gradlab ResponseStd", compiled_responses)
PARAMETERS = Tool("gradlab ParameterGradients", parameter_gradients)
EXAMPLES = Tool("gradlab ExampleGradients", example_gradients)
