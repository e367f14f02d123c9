"""The jobs of the table, each with its goal and with the peers that do it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks import compiled, imports, memory, own, shatter
from benchmarks.paired import Job, Subject, Tool
from benchmarks.peers.examples import EXAMPLES
from benchmarks.peers.gradients import GRADIENTS
from benchmarks.peers.responses import COMPILED, RESPONSES, naive_hooks, nnsight
from benchmarks.peers.step import Step
from benchmarks.table import Row
from gradlab.models import parse_family

NAMES = (
    *("responses-init", "responses", "responses-small", "gradients", "examples", "compiled"),
    *("shatter", "imports", "memory"),
)
"""The jobs by the names that `--only` takes."""

MODULES = {"backpack-for-pytorch": "backpack", "cockpit-for-pytorch": "cockpit", "mosaicml": "composer"}
"""The names that programs import, of the distributions that have another name."""


def jobs(
    depth: int, batch: int, examples: int, compiled_model: str
) -> dict[str, Callable[[int, Sequence[Row]], Iterator[Row]]]:
    """By the name that `--only` takes: a function from a number of rounds and what is known to the rows of a job."""
    net = f"ResNet-{depth}"
    paired = {
        "responses-init": Job(
            f"responses {net}@init with batch statistics, batch {batch}, over the forward pass in eval mode",
            partial(subject, net, batch),
            forward,
            (own.COMMAND, *(in_train_mode(tool) for tool in RESPONSES if tool.way in (naive_hooks, nnsight))),
            goal=0.95,
        ),
        "responses": Job(
            f"std of every response, {net}, batch {batch}, over the forward pass",
            partial(subject, net, batch),
            forward,
            (own.RESPONSES, *RESPONSES),
            goal=1.03,
        ),
        "responses-small": Job(
            f"std of every response, {net}, batch 8, a layer beyond the forward pass",
            partial(subject, net, 8),
            forward,
            (own.RESPONSES, *RESPONSES),
            goal=60,
            layers=depth,
            times=4,
        ),
        "gradients": Job(
            f"norm of every parameter's gradient, {net}, batch {examples}, over a training step",
            partial(subject, net, examples),
            step,
            (own.PARAMETERS, *GRADIENTS),
            training=True,
        ),
        "examples": Job(
            f"gradient norms of single examples, {net}, batch {examples}, over a training step",
            partial(subject, net, examples),
            step,
            (own.EXAMPLES, *EXAMPLES),
            goal=1.2,
            training=True,
        ),
        "compiled": Job(
            f"std of every response, {compiled_model} compiled, batch {batch}, over the compiled pass",
            partial(subject, compiled_model, batch),
            compiled_forward,
            (own.COMPILED, COMPILED),
            goal=1.15,
            reference=own.RESPONSES,
        ),
    }
    return {
        **{name: job.rows for name, job in paired.items()},
        "shatter": shatter_rows,
        "imports": import_rows,
        "memory": lambda rounds, known: memory.rows(12 * rounds, known),
    }


def subject(name: str, batch: int) -> Subject:
    """A network at initialization with running statistics of real magnitude, in eval mode, and noise."""
    model, images = compiled.network(name.lower().replace("-", ""), batch)
    return Subject(model, images, torch.arange(batch) % 10)


def forward(subject: Subject) -> Callable[[], object]:
    """The forward pass."""
    return lambda: subject.model(subject.inputs)


def compiled_forward(subject: Subject) -> Callable[[], object]:
    """The forward pass in compiled code, which the probe of another compiled model would have run eagerly."""
    model = torch.compile(subject.model)

    def run() -> None:
        with torch.compiler.set_stance("default"):
            model(subject.inputs)

    return run


def step(subject: Subject) -> Callable[[], object]:
    """A training step, in eval mode, as gradients of single examples need it."""
    return Step(subject).run


def in_train_mode(tool: Tool) -> Tool:
    """The same tool on a network that normalizes by batch statistics, in torch's own way."""
    return Tool(tool.name, lambda subject: tool.way(in_train(subject)), tool.package, tool.why)


def in_train(subject: Subject) -> Subject:
    """The subject with its network in train mode."""
    return Subject(subject.model.train(), subject.inputs, subject.labels)


def shatter_rows(rounds: int, known: Sequence[Row] = ()) -> Iterator[Row]:
    """The core of `gradlab shatter`, and what a notebook does, over the products of weights with states."""
    job = "gradients of a random net, depth 64, 256 points, over the arithmetic"
    if measured := [row for row in known if row.job == job]:
        yield from measured
        return
    print(job, file=sys.stderr, flush=True)
    times, _ = shatter.measure(parse_family("resnet").at(64), 64, rounds)
    names = {"forward-mode pass": "gradlab shatter", "module, point by point": "backward, point by point"}
    for name, by in names.items():
        ratios = [a / b for a, b in zip(times[name], times["arithmetic"], strict=True)]
        own_way = by == "gradlab shatter"
        agrees = "the reference" if own_way else "not compared: normalization frozen; 4 points counted up"
        yield Row.of(job, by, ratios, goal=1.4 if own_way else None, agrees=agrees)


def import_rows(rounds: int, known: Sequence[Row] = ()) -> Iterator[Row]:
    """What the command imports, torch included; torch alone; and what importing each peer takes."""
    job = "imports, torch included"
    if measured := [row for row in known if row.job == job]:
        yield from measured
        return
    print(job, file=sys.stderr, flush=True)
    variants = {"gradlab responses": imports.VARIANTS["gradlab responses"]}
    variants["import torch"] = imports.VARIANTS["torch alone"]
    missing = []
    for package in dict.fromkeys(tool.package for tool in (*RESPONSES, *EXAMPLES, *GRADIENTS) if tool.package):
        module = MODULES.get(package, package)
        try:
            title = f"import {module} {version(package)}"
            variants[title] = (f"import time, torch, {module}; print('', time.process_time())", [])
        except PackageNotFoundError:
            missing.append(Row(job, f"import {module}", agrees=f"not installed: {package}"))
    for name, seconds in imports.measure(variants, max(2, rounds // 4)).items():
        yield Row.of(job, name, seconds, "s", goal=1.7 if name == "gradlab responses" else None)
    yield from missing
