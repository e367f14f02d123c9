"""Train plain and residual nets of several depths (He et al. 2015, Fig. 6), for `gradlab degradation`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.request import Progress
from gradlab.experiments.spreading import spread
from gradlab.experiments.train import train
from gradlab.networks import network_name
from gradlab.results.degradation.result import DegradationResult
from gradlab.results.record import Stopwatch, make_record
from gradlab.results.training.result import TrainingResult
from gradlab.training import Recipe, preset
from gradlab.training.recipe import with_defaults

DEPTHS = (20, 32, 44, 56, 110)
FAMILIES = ("plain", "resnet")


def member(family: str, depth: int) -> str:
    """The network of a family and depth: `resnet-B` and 56 give `resnet56-B`."""
    return re.sub(r"^[a-zA-Z_]+", rf"\g<0>{depth}", family)


def degradation(
    depths: Sequence[int] = DEPTHS,
    families: Sequence[str] = FAMILIES,
    data: str = "cifar10",
    *,
    recipe: Recipe | str = "he2015",
    runs: str | Path = "runs",
    seed: int = 0,
    train_missing: bool = True,
    progress: Progress | None = None,
    **training: Any,
) -> DegradationResult:
    """Measure training and test error of plain and residual nets across depth (He et al. 2015, §4.2, Fig. 6, Table 6).

    Networks are trained one after another, beginning with the shallowest; an interrupted run is continued, and a
    complete run is read. Within `gl.together`, networks are spread over the processes, each trained by one of them.

    Args:
        depths: The depths, as numbers of weighted layers.
        families: The families, `plain` or `resnet`, with options if any: `resnet-B`.
        data: The data set, as in `train`.
        recipe: A `Recipe`, or the name of a preset.
        runs: The folder of the runs, each in a folder with the name of its network.
        seed: The seed of every network.
        train_missing: Whether to train networks without a complete run. Otherwise existing runs are read, finished or
            not and with any recipe.
        progress: A function called at every step with the network's name and its place among the networks, the number
            of steps done and the total number of steps.
        **training: Other arguments of `train`: device, compiled, record, every, log, observe, ….

    Raises:
        UsageError: If the arguments are invalid or inconsistent, or the folder of a run contains another run.
        GradlabError: If a training fails, or there is no run to read.
        Interrupted: On Ctrl-C or SIGTERM, after the checkpoint has been written.
    """
    recipe = preset(recipe) if isinstance(recipe, str) else recipe
    if not depths or not families:
        raise UsageError("name at least one depth and one family")
    stopwatch = Stopwatch()
    names = {(family, depth): network_name(member(family, depth)) for family in families for depth in depths}
    asked = {"data": data, "recipe": recipe.to_dict(), "seed": seed}
    depth_of = {name: depth for (_, depth), name in names.items()}
    order = sorted(depth_of, key=depth_of.__getitem__)

    def measure(name: str) -> TrainingResult | None:
        folder = Path(runs) / name
        if not train_missing:
            return TrainingResult.load(folder) if (folder / "record.json").exists() else None
        told = None if progress is None else _labelled(progress, f"{name} ({order.index(name) + 1} of {len(order)})")
        finished = _finished(folder, asked)
        return finished or train(name, data, recipe=recipe, out=folder, seed=seed, progress=told, **training)

    done = dict(zip(order, spread(order, measure, cost=depth_of.__getitem__), strict=True))
    results = [found for name in names.values() if (found := done[name]) is not None]
    if not any(len(result.frame) for result in results):
        raise GradlabError(f"{runs} holds no run of {', '.join(names.values())}")
    joined = TrainingResult.concat(results)
    result = DegradationResult(joined.frame, joined.record, joined.notes)
    options = {
        # Runs that are read may differ in their recipes, which the facts on each network give.
        **(asked if train_missing else {}),
        "depths": list(depths),
        "families": list(families),
        "runs": str(runs),
        "train_missing": train_missing,
    }
    device = "; ".join(dict.fromkeys(facts["device"] for facts in result.record["networks"]))
    result.record = make_record("degradation", options=options, device=device, stopwatch=stopwatch, **result.record)
    return result


def _labelled(progress: Progress, label: str) -> Progress:
    return lambda _, done, total: progress(label, done, total)


def _finished(folder: Path, asked: dict[str, Any]) -> TrainingResult | None:
    """The run in a folder, if it is the requested run and complete."""
    if not (folder / "record.json").exists():
        return None
    result = TrainingResult.load(folder)
    recorded = result.record["options"]
    recorded = {**recorded, "recipe": with_defaults(recorded.get("recipe") or {})}
    same = all(recorded.get(key) == value for key, value in asked.items())
    return result if same and result.record.get("complete") else None
