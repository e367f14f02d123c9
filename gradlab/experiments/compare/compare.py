"""Answer a question on networks by an experiment, for `gradlab compare`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradlab.experiments.compare.initial import at_initialization
from gradlab.experiments.compare.matching import Matched, matched
from gradlab.experiments.compare.request import BLOCKS, CompareRequest, Match, Question
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.request import Progress
from gradlab.experiments.spreading import spread
from gradlab.experiments.train import train
from gradlab.models import named_cost, parse_name
from gradlab.results.compare.result import CompareResult
from gradlab.results.files import prepared_folder
from gradlab.results.record import Stopwatch, make_record
from gradlab.results.training.epochs import by_epoch
from gradlab.results.training.result import TrainingResult
from gradlab.training import Recipe, load_split
from gradlab.training import preset as preset_recipe


def compare(
    question: Question = "depth",
    *,
    depths: Sequence[int] | None = None,
    blocks: Sequence[str] = BLOCKS,
    match: Match = "parameters",
    tolerance: float = 0.05,
    data: str = "cifar10-sample",
    images: int = 32,
    seed: int = 0,
    seeds: int = 4,
    device: str = "auto",
    epochs: int | None = None,
    preset: str = "fast",
    runs: str | Path = "runs/compare",
    progress: Progress | None = None,
) -> CompareResult:
    """Answer a question on networks at initialization, and if `epochs` is given also by training them.

    At initialization every network is measured on one batch with its statistics, over several seeds: the standard
    deviation of the stream after each block, the norm of the loss's gradient with respect to each layer's response, and
    the effective rank of the gradients of the summed logits with respect to the images, relative to noise (Balduzzi et
    al. 2017, arXiv:1702.08591). All networks are then trained by one recipe for the same number of epochs.

    Args:
        question: `depth` compares plain and residual nets of several depths, `shortcut` plain with residual nets of
            equal depth, and `block` networks of different blocks with equal numbers of parameters or multiply-adds.
        depths: The numbers of weighted layers; None takes 20, 56 and 110, for `shortcut` 20 and 56, and for `block` 56,
            which is the depth of the reference.
        blocks: For `block`, the blocks to compare, of which the first is the reference.
        match: For `block`, the quantity that is equal in all networks.
        tolerance: For `block`, the largest relative difference of a count from the reference's.
        data: The data set; `cifar10-sample` is also split for training.
        images: The number of images of the batch at initialization.
        seed: The first seed of initial weights, and the seed of trainings.
        seeds: The number of initializations of each network.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        epochs: The number of epochs for which every network is trained; None trains none.
        preset: The recipe of the trainings.
        runs: The folder of the trainings, which are continued if they were interrupted.
        progress: A function called after every batch and every step.

    Raises:
        UsageError: If the arguments are invalid or inconsistent, or no network matches the reference.
        GradlabError: If something cannot be read or run.
        Interrupted: On Ctrl-C or SIGTERM in a training, after its checkpoint has been written.
    """
    stopwatch, request = Stopwatch(), CompareRequest.of({**locals(), "runs": str(runs)})
    networks = members(request)
    names = [one.name for one in networks]
    # What cannot be trained on is refused before anything is measured.
    test = None
    if epochs is not None:
        recipe = _recipe(request)
        split = load_split(data, recipe.normalization)
        recipe.steps(len(split.train))
        test = split.test
    with nullcontext() if epochs is None else prepared_folder(runs):
        frame, facts, notes = at_initialization(networks, request, progress)
        trained = [] if epochs is None else _trainings(networks, request, progress)
    for one in networks:
        cost = {"parameters": one.cost.parameters, "multiply_adds": one.cost.multiply_adds, "layers": one.cost.layers}
        facts[one.name] |= {"block": one.block, **cost}
    if test is not None:
        frame = pd.concat([frame, *map(_errors, trained)], ignore_index=True)
        for name, run in zip(names, trained, strict=True):
            facts[name] |= {**_training_facts(run), "test_images": len(test)}
    record = make_record(
        "compare",
        options=request.options() | {"depths": request.asked_depths()},
        device=device_name(pick_device(device)),
        stopwatch=stopwatch,
        networks=list(facts.values()),
    )
    return CompareResult(frame.astype({"seeds": "Int64"}), record, notes)


def members(request: CompareRequest) -> list[Matched]:
    """The networks that answer a question, in the order of the table."""
    depths = request.asked_depths()
    if request.question == "block":
        return matched(request.blocks, depths[0], request.match, request.tolerance)
    # Plain nets have the layers of basic blocks, also where a paper's residual net of this depth has bottlenecks.
    forms = (("plain", "plain{}"), ("resnet", "resnet{}-basic"))
    named = [(family, parse_name(form.format(depth))) for family, form in forms for depth in depths]
    return [Matched(family, network.name, named_cost(network)) for family, network in named]


def _trainings(networks: list[Matched], request: CompareRequest, progress: Progress | None) -> list[TrainingResult]:
    """The trainings of all networks, those that are complete being read; ranks train different networks."""
    recipe = _recipe(request)
    runs = Path(request.runs) / f"{Path(request.data).stem}-{request.preset}-{request.epochs}"
    places = {one: place for place, one in enumerate(networks, 1)}
    options: dict[str, Any] = {"recipe": recipe, "seed": request.seed, "device": request.device}

    def trained(one: Matched) -> TrainingResult:
        label = f"{one.name} ({places[one]} of {len(networks)})"
        told = None if progress is None else partial(_labelled, progress, label)
        return train(one.name, request.data, out=runs / one.name, progress=told, **options)

    return spread(networks, trained, cost=lambda one: one.cost.multiply_adds)


def _recipe(request: CompareRequest) -> Recipe:
    """The recipe of the trainings."""
    return replace(preset_recipe(request.preset), epochs=request.epochs, iterations=None)


def _labelled(progress: Progress, label: str, _: str, done: int, total: int) -> None:
    progress(label, done, total)


def _errors(run: TrainingResult) -> pd.DataFrame:
    """The errors of a training, with a row per epoch."""
    epochs = by_epoch(run.frame)
    rows = [
        {
            "network": run.networks[0],
            "statistic": statistic,
            "place": epoch.epoch,
            "value": getattr(epoch, statistic),
            "sem": np.nan,
            "seeds": 1,
        }
        for epoch in epochs.itertuples()
        for statistic in ("train_error", "test_error")
    ]
    return pd.DataFrame(rows).dropna(subset="value")


def _training_facts(run: TrainingResult) -> dict[str, Any]:
    """The facts on a training that its errors are judged by."""
    facts, epochs = run.facts(run.networks[0]), by_epoch(run.frame)
    last = epochs.iloc[-1]
    return {
        "training_recipe": facts["recipe"],
        "training_images": int(last["steps"] * facts["batch_size"]),
        "training_steps": int(epochs["steps"].sum()),
        "epochs": float(last["epoch"]),
    }
