"""The sizes of responses and of their changes against width and depth, for `gradlab coordinates`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gradlab.data.batching import Batches, batches
from gradlab.errors import UsageError
from gradlab.experiments.coordinates.making import Made, maker, name_of
from gradlab.experiments.coordinates.places import kinds, places
from gradlab.experiments.coordinates.request import (
    CoordinatesRequest,
    MakeModel,
    MakeOptimizer,
    OptimizerName,
    Parametrization,
)
from gradlab.experiments.coordinates.training import trained
from gradlab.experiments.device import device_name, pick_device, seeded
from gradlab.experiments.request import Progress
from gradlab.experiments.spreading import spread
from gradlab.experiments.subject import of_other_data
from gradlab.results.coordinates.result import CoordinatesResult
from gradlab.results.record import Stopwatch, make_record
from gradlab.stats.float32 import full_float32
from gradlab.transfer import placed, uploaded

Loss = Callable[[Any, Tensor], Tensor]

Layout = tuple[dict[int, dict[str, str]], dict[str, str]]
EMPTY = dict.fromkeys(("rms", "change", "update", "branch"), math.nan)
"""The quantities measured of a layer, if they are defined for it."""

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of logits: (B, classes) of images, (B, T, tokens) of sequences, or as torch has them."""
    if output.ndim > 2 and output.shape[:-1] == targets.shape:
        output, targets = output.flatten(0, -2), targets.flatten()
    return F.cross_entropy(output, targets)


@full_float32()
def coordinate_check(
    make_model: MakeModel,
    *,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    parametrization: Parametrization = "mup",
    branch: float = 0.5,
    optimizer: MakeOptimizer | OptimizerName | None = None,
    rate: float = 1e-3,
    steps: int | None = None,
    seeds: int = 8,
    batch: tuple[Tensor, Tensor] | None = None,
    loss: Loss = cross_entropy,
    data: str = "cifar10-sample",
    images: int = 16,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> CoordinatesResult:
    """Check that responses and their changes keep their size as a network grows (Yang et al. 2022, arXiv:2203.03466).

    Networks of each width and of each depth are trained for a few steps on one batch in double precision. The root mean
    square of each layer's response at initialization, of its change in training, and of the part of the change that is
    due to its own weights, is fitted by a power of the width or depth, and the exponent is compared with that of the
    parametrization.

        def make_model(width):
            model = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 10))
            return model, torch.optim.Adam(model.parameters(), lr=1e-3)

        gl.coordinate_check(make_model, widths=(64, 128, 256, 512), batch=(x, y))

    Args:
        make_model: A function of `width`, `depth` or both, called with these names if it has them, that returns the
            network, alone or with its optimizer. Otherwise a name with placeholders, such as `resnet{depth}`, or
            `package.module:function`.
        widths: Three or more widths, measured at the first of `depths` if there are any.
        depths: Three or more depths, measured at the first of `widths` if there are any. In lists of layers that grow
            with depth the first, the middle and the last are measured.
        parametrization: The parametrization with which widths are compared: `mup`, or `standard`, whose exponents are
            known for the first step by SGD or Adam at a small learning rate.
        branch: The expected scaling of residual branches, depth^−branch: 1/2 in Depth-μP (Yang et al. 2023,
            arXiv:2310.02244), 1 in CompleteP (Dey et al. 2025, arXiv:2505.01618).
        optimizer: A function that makes the optimizer of a network, or `adam` or `sgd` with one rate for all
            parameters; None takes the optimizer of `make_model` if it returns one, or else Adam.
        rate: The learning rate of `adam` or `sgd`.
        steps: The number of optimizer steps; by default 3, and 1 for `standard`.
        seeds: The number of networks of each size.
        batch: The inputs and targets, the same for all networks; None takes images of `data`.
        loss: A function of output and targets.
        data: A named data set (see `gl.batches`).
        images: The number of images to take from the beginning of the data set.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        seed: The seed of the first network; each of the others has the next one.
        progress: Called after every network.

    Raises:
        UsageError: If the arguments are invalid or inconsistent.
    """
    stopwatch, request = Stopwatch(), CoordinatesRequest.of(locals())
    where, made_by = pick_device(device), _optimizer_maker(optimizer, rate)
    make, sweeps = maker(make_model), [*_sweeps(widths, depths)]
    name = name_of(make_model)
    stream, given = None, batch
    if given is None:
        stream = _stream(data, images, where, make(sweeps[0].sizes(sweeps[0].values[0]), seed)[0])
        given = _labelled(stream)
    check = _Check(make, made_by, _ready(given, where), loss, request.listed_steps(), where, rate)
    rows: list[dict[str, Any]] = []
    optimizer_name = ""
    done, total = 0, seeds * sum(len(sweep.values) for sweep in sweeps)
    for sweep in sweeps:
        layout = check.layout(sweep, seed)
        # Each network has its own seed, since networks of one seed share random numbers at any width.
        sizes = [value for value in sweep.values for _ in range(seeds)]
        tasks = list(enumerate(sizes, seed + done))

        count = None if progress is None else partial(progress, "networks")
        measure = partial(_measured, check, sweep, layout, (seed, total), count)
        measured = spread(tasks, measure, cost=lambda task: task[1])
        rows += [row for found, _ in measured for row in found]
        optimizer_name = measured[-1][1]
        done += len(tasks)
    frame = pd.DataFrame(rows)
    frame.insert(0, "network", name)
    optimizer_kind = _exponents_of(optimizer_name, parametrization)
    record = make_record(
        "coordinates",
        options={**request.options(), "make_model": name, "data": None if batch is not None else data},
        device=device_name(where),
        stopwatch=stopwatch,
        networks=[
            {"network": name, "optimizer": optimizer_name, "data": None if stream is None else stream.dataset.name}
        ],
        expected={"parametrization": parametrization, "optimizer": optimizer_kind, "branch": branch},
    )
    return CoordinatesResult(frame, record, [] if stream is None else of_other_data(name, stream))


def _measured(
    check: _Check,
    sweep: _Sweep,
    layout: Layout,
    numbers: tuple[int, int],
    count: Callable[[int, int], None] | None,
    task: tuple[int, int],
) -> tuple[list[dict[str, Any]], str]:
    """The rows of one network, which is given by its seed and size, and the class of its optimizer."""
    (seed, value), (found, kind), (first, total) = task, layout, numbers
    rows = [*check.rows(sweep, value, seed, found[value], kind)]
    if count is not None:
        count(seed - first + 1, total)
    return rows, check.optimizer_name


@dataclass(frozen=True)
class _Sweep:
    """One axis with its sizes, while the other one is fixed."""

    axis: str
    values: Sequence[int]
    fixed: dict[str, int]

    def sizes(self, value: int) -> dict[str, int]:
        return {self.axis: value, **self.fixed}


@dataclass
class _Check:
    """The settings common to all networks of a check."""

    make: Callable[[dict[str, int], int], Made]
    make_optimizer: MakeOptimizer | None
    batch: tuple[Tensor, Tensor]
    loss: Loss
    steps: int
    device: torch.device
    rate: float
    optimizer_name: str = ""

    def layout(self, sweep: _Sweep, seed: int) -> Layout:
        """The measured places of each size, and their kinds."""
        models = {value: self.make(sweep.sizes(value), seed)[0] for value in sweep.values}
        found = places(models)
        return found, kinds(models, found)

    def rows(
        self, sweep: _Sweep, value: int, seed: int, named: dict[str, str], kind: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        """The rows of one network."""
        model, optimizer = self.make(sweep.sizes(value), seed)
        # Changes are small differences. Parameters remain the same objects, so that the optimizer keeps them.
        placed(model, self.device, torch.float64)
        if self.make_optimizer is not None:
            optimizer = self.make_optimizer(model)
        optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=self.rate)
        self.optimizer_name = type(optimizer).__name__
        with seeded(seed, self.device):
            measured = trained(model, optimizer, self.batch, self.loss, named, self.steps)
        for step, sizes in enumerate(measured):
            for index, (layer, quantities) in enumerate(sizes.items(), 1):
                where = {"axis": sweep.axis, "value": value, "seed": seed, "step": step}
                yield {**where, "layer": layer, "index": index, "kind": kind[layer], **EMPTY, **quantities}


def _sweeps(widths: Sequence[int], depths: Sequence[int]) -> Iterator[_Sweep]:
    if len(widths) > 1:
        yield _Sweep("width", widths, {"depth": depths[0]} if depths else {})
    if len(depths) > 1:
        yield _Sweep("depth", depths, {"width": widths[0]} if widths else {})


def _optimizer_maker(optimizer: MakeOptimizer | OptimizerName | None, rate: float) -> MakeOptimizer | None:
    if not isinstance(optimizer, str):
        return optimizer
    kind: Any = OPTIMIZERS[optimizer]
    return lambda model: kind(model.parameters(), lr=rate)


def _stream(data: str, images: int, device: torch.device, model: nn.Module) -> Batches:
    """One batch for one of the networks, whose shape of inputs and vocabulary all have in common."""
    return batches(data, images, model, device=device, images=images)


def _labelled(stream: Batches) -> tuple[Tensor, Tensor]:
    """The inputs and labels of the first batch."""
    inputs, labels = next(iter(stream))
    if labels is None:
        raise UsageError(f"{stream.dataset.name} has no labels to train on: give other data, or a batch")
    return inputs, labels


def _ready(batch: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets on the device, floating-point numbers in double precision."""
    inputs, targets = (uploaded(t.double() if t.is_floating_point() else t, device) for t in batch)
    return inputs, targets


def _exponents_of(optimizer: str, parametrization: str) -> str:
    """The optimizer with the same exponents: SGD, or Adam for optimizers whose updates have entries of one size."""
    if optimizer == "SGD":
        return "sgd"
    if optimizer in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop") or parametrization == "mup":
        return "adam"
    raise UsageError(f"the standard parametrization has known exponents for SGD and Adam, not for {optimizer}")
