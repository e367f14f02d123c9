"""Train plain and residual nets of several depths (He et al. 2015, Fig. 6), for `gradlab degradation`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.request import MOST, MOST_SEED, Progress
from gradlab.experiments.spreading import spread
from gradlab.experiments.train import train
from gradlab.networks import network_name
from gradlab.results.degradation.result import DegradationResult
from gradlab.results.record import Stopwatch, make_record
from gradlab.results.training.result import TrainingResult
from gradlab.training import Recipe, preset
from gradlab.training.recipe import check_whole, with_defaults

DEPTHS = (20, 32, 44, 56, 110)
FAMILIES = ("plain", "resnet")


def member(family: str, depth: int) -> str:
    """The network of a family and depth: `resnet-B` and 56 give `resnet56-B`."""
    return re.sub(r"^[a-zA-Z_]+", rf"\g<0>{depth}", family)


def run_folder(network: str, seed: int, first: int = 0) -> str:
    """The name of the folder of a run: that of its network, and the seed after it if it is not the first."""
    return network if seed == first else f"{network}-seed{seed}"


def degradation(
    depths: Sequence[int] = DEPTHS,
    families: Sequence[str] = FAMILIES,
    data: str = "cifar10",
    *,
    recipe: Recipe | str = "he2015",
    runs: str | Path = "runs",
    seed: int = 0,
    seeds: int = 1,
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
        runs: The folder of the runs, each in a folder with the name of its network; runs of further seeds have the seed
            after the name, as in `resnet56-seed1`.
        seed: The seed of every network, the first if there are several.
        seeds: The number of seeds of every network.
        train_missing: Whether to train networks without a complete run. Otherwise existing runs are read, finished or
            not and with any recipe, and with any seed if one is asked for.
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
    check_whole("seeds", seeds, 1, MOST)
    check_whole("seed", seed, 0, MOST_SEED - seeds + 1)
    stopwatch = Stopwatch()
    depth_of = {network_name(member(family, depth)): depth for family in families for depth in depths}
    asked = {"data": data, "recipe": recipe.to_dict()}
    # By the folders of the runs: the network and its seed.
    nets = {run_folder(name, own, first=seed): (name, own) for name in depth_of for own in range(seed, seed + seeds)}
    order = sorted(nets, key=lambda run: depth_of[nets[run][0]])

    def measure(run: str) -> TrainingResult | None:
        folder, (name, own) = Path(runs) / run, nets[run]
        if not train_missing:
            return _existing(Path(runs), name, None if seeds == 1 else own)
        told = None if progress is None else _labelled(progress, f"{run} ({order.index(run) + 1} of {len(order)})")
        finished = _finished(folder, {**asked, "seed": own})
        return finished or train(name, data, recipe=recipe, out=folder, seed=own, progress=told, **training)

    done = dict(zip(order, spread(order, measure, cost=lambda run: depth_of[nets[run][0]]), strict=True))
    results = [found for run in nets if (found := done[run]) is not None]
    if not any(len(result.frame) for result in results):
        raise GradlabError(f"{runs} holds no run of {', '.join(depth_of)}")
    joined = TrainingResult.concat(results)
    missing = [
        name if seeds == 1 else f"{name} with seed {own}" for run, (name, own) in nets.items() if done[run] is None
    ]
    notes = [f"{runs} holds no run of {', '.join(missing)}"] if missing else []
    result = DegradationResult(joined.frame, joined.record, [*joined.notes, *notes])
    options = {
        # Runs that are read may differ in their recipes, which the facts on each network give.
        **({**asked, "seed": seed} if train_missing else {}),
        "depths": list(depths),
        "families": list(families),
        "seeds": seeds,
        "runs": str(runs),
        "train_missing": train_missing,
    }
    device = "; ".join(dict.fromkeys(facts["device"] for facts in result.record["networks"]))
    result.record = make_record("degradation", options=options, device=device, stopwatch=stopwatch, **result.record)
    return result


def _labelled(progress: Progress, label: str) -> Progress:
    return lambda _, done, total: progress(label, done, total)


def _existing(runs: Path, network: str, seed: int | None) -> TrainingResult | None:
    """The run of a network and seed, or of any if that is None."""
    folders = [runs / network] if seed is None else [runs / network, runs / run_folder(network, seed, first=-1)]
    found = (TrainingResult.load(folder) for folder in folders if (folder / "record.json").exists())
    return next((run for run in found if seed in (None, run.record["options"].get("seed"))), None)


def _finished(folder: Path, asked: dict[str, Any]) -> TrainingResult | None:
    """The run in a folder, if it is the requested run and complete."""
    if not (folder / "record.json").exists():
        return None
    result = TrainingResult.load(folder)
    recorded = result.record["options"]
    recorded = {**recorded, "recipe": with_defaults(recorded.get("recipe") or {})}
    same = all(recorded.get(key) == value for key, value in asked.items())
    return result if same and result.record.get("complete") else None
