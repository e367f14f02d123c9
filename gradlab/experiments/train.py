"""Train a named network and keep what happens: what `gradlab train` runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from gradlab.checkpoints import weights_digest
from gradlab.errors import UsageError
from gradlab.experiments.device import device_name, pick_device
from gradlab.models import create, weighted_layers
from gradlab.networks import network_name
from gradlab.results import Stopwatch, TrainingResult, make_record
from gradlab.training import (
    Arithmetic,
    Recipe,
    RunFolder,
    Status,
    Trainer,
    load_split,
    preset,
    read_training_checkpoint,
)
from gradlab.training.images import Split

_MADE_ANYWHERE = ("torch", "device", "arithmetic", "compiled")
"""What may differ in a run that goes on, and is said."""


def train(
    model: str,
    data: str = "cifar10",
    *,
    recipe: Recipe | str = "he2015",
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    compiled: bool = False,
    resume: str | Path | None = None,
    checkpoint_every: int = 500,
    test_every: int | None = None,
    observe: Callable[[Status], None] | None = None,
) -> TrainingResult:
    """Train a network from its initialization, or go on where a run of the same folder stopped.

    On the CPU a run that was killed and goes on ends with the bits of one that never stopped.

    Args:
        model: A network's name, without weights.
        data: `cifar10`, `cifar100`, or `PATH.npz` with `x_train`, `y_train`, `x_test` and `y_test`.
        recipe: A `Recipe`, or the name of a preset: `he2015` or `fast`.
        out: Folder of the run; by default `runs/MODEL`.
        seed: Of the initial weights, the order of images and their crops.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        compiled: Whether to compile the network.
        resume: A run's folder or its `checkpoint.pt` to go on from, even where device, torch or recipe differ.
        checkpoint_every: Steps between checkpoints.
        test_every: Steps between two tests; None is an epoch.
        observe: Told where the training is, at every row of `metrics.csv`.

    Returns:
        Loss and error along the training, with its record.

    Raises:
        UsageError: For a request that cannot be meant, a folder that another run writes into, or one that holds a
            run of another kind.
        GradlabError: When the data is not there or the training diverged.
        Interrupted: After Ctrl-C or SIGTERM, the checkpoint written.
    """
    recipe = preset(recipe) if isinstance(recipe, str) else recipe
    name = network_name(model)
    split = load_split(data, recipe.normalization, recipe.validation)
    network = create(name, classes=split.classes, seed=seed)
    check_fit(network, name, split)
    initial = weights_digest(network)
    arithmetic = Arithmetic.choose(recipe.amp, pick_device(device))
    trainer = Trainer(
        network, recipe, split, arithmetic, seed=seed, depth=len(weighted_layers(network)), compiled=compiled
    )
    stopwatch = Stopwatch()
    options = {"data": data, "recipe": recipe.to_dict(), "seed": seed, "compiled": compiled}
    record = make_record(
        "training",
        options=options,
        device=device_name(arithmetic.device),
        stopwatch=stopwatch,
        network=name,
        normalization=recipe.normalization,
        recipe=f"gradlab {recipe}, seed {seed}",
        arithmetic=str(arithmetic),
        initial_weights=initial,
    )
    config = {
        **{key: record[key] for key in ("network", "normalization", "recipe", "arithmetic", "device")},
        "data": data,
        "seed": seed,
        "compiled": compiled,
        "fields": recipe.to_dict(),
        "torch": record["versions"]["torch"],
    }
    with RunFolder(out or Path("runs") / name.replace("/", "-")) as folder:
        content = read_training_checkpoint(_checkpoint_file(resume)) if resume else folder.checkpoint()
        before = folder.record() if content is not None else {}
        changes = [] if content is None else _changes(content["config"], config, forced=resume is not None)
        if content is not None:
            trainer.restore(content)
        resumed = before.get("resumed", [])
        if content is not None:
            resumed = [*resumed, {"step": trainer.step, "changes": changes}]
        earlier = float(before.get("wall_seconds", 0.0))
        record = {**record, "resumed": resumed, "steps": trainer.steps, "complete": False, "notes": changes}
        done = trainer.step == trainer.steps
        if not done:
            folder.write_record(record)
            trainer.run(
                folder,
                config=config,
                checkpoint_every=checkpoint_every,
                test_every=test_every,
                lengths=content["lengths"] if content is not None and resume is None else None,
                observe=observe,
            )
            record |= {"complete": True, "wall_seconds": round(earlier + stopwatch.seconds, 3)}
            folder.write_record({**record, "digest": weights_digest(network)})
        return TrainingResult.load(folder.path)


def check_fit(network: nn.Module, name: str, split: Split) -> None:
    """Hold the images against what a network takes.

    Raises:
        UsageError: When their shape is another.
    """
    expected = tuple(getattr(network, "input_shape", (3, 32, 32)))
    given = tuple(split.train.pixels.shape[1:])
    if given != expected:
        raise UsageError(f"{name} takes images of shape {expected}, and these are {given}")


def _checkpoint_file(path: str | Path) -> Path:
    path = Path(path)
    return path / "checkpoint.pt" if path.is_dir() else path


def _changes(before: dict[str, Any], now: dict[str, Any], *, forced: bool) -> list[str]:
    """What differs from the run that goes on, a sentence each.

    Raises:
        UsageError: When it is another network, or what differs was not asked for with `resume`.
    """
    if before["network"] != now["network"]:
        raise UsageError(f"the checkpoint holds {before['network']}, not {now['network']}")
    flat = [{**c, **{f"recipe {k}": v for k, v in c["fields"].items()}} for c in (before, now)]
    keys = [key for key in flat[1] if key not in ("fields", "recipe", "network") and flat[0].get(key) != flat[1][key]]
    said = [f"{key} is {flat[1][key]} and was {flat[0].get(key)}" for key in keys]
    if not forced and (meant := [line for key, line in zip(keys, said, strict=True) if key not in _MADE_ANYWHERE]):
        raise UsageError(
            f"the folder holds another run: {'; '.join(meant)}; give another --out, or go on from it with --resume"
        )
    return [f"the run goes on though {line}" for line in said]
