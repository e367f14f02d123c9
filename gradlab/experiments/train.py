"""Train a named network and record its training, for `gradlab train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from gradlab.checkpoints import weights_digest
from gradlab.errors import UsageError
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.request import Progress
from gradlab.experiments.spreading import team
from gradlab.experiments.subject import has_batch_norm
from gradlab.facts import input_shape_of, vocabulary_of
from gradlab.models import create, describe, weighted_layers
from gradlab.networks import network_name
from gradlab.results.files import prepared_folder
from gradlab.results.record import Stopwatch, make_record
from gradlab.results.training.result import TrainingResult
from gradlab.training import (
    Arithmetic,
    DynamicsRecorder,
    Recipe,
    Recording,
    RunFolder,
    Status,
    TensorBoard,
    Trainer,
    check_run,
    check_tables,
    load_split,
    preset,
    read_training_checkpoint,
    require_tensorboard,
)
from gradlab.training.images import Split, load_token_split
from gradlab.training.parallel import ALONE, Parallel
from gradlab.training.recipe import with_defaults
from gradlab.training.run_folder import CHECKPOINT, DYNAMICS, METRICS

_MADE_ANYWHERE = ("torch", "device", "arithmetic", "compiled", "ranks")
"""The settings that may change when a run is continued, with a note."""


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
    record: Sequence[str] | str = (),
    every: int | Literal["log"] = 100,
    log: Literal["tensorboard"] | None = None,
    observe: Callable[[Status], None] | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a network from its initialization, or continue an interrupted run in the same folder.

    On the CPU, a run that was killed and continued ends with bitwise the same weights as an uninterrupted run.

    Within `gl.together`, all processes train this network by `DistributedDataParallel`: each batch of the recipe is
    shared by them, and the first one writes. A run may be continued by another number of processes, with a note.

    Args:
        model: The name of a network, without weights.
        data: The data set: `cifar10`, `cifar100`, or `PATH.npz` with `x_train`, `y_train`, `x_test` and `y_test`; for a
            network of tokens `tokens`, `tokens:markov` or `text:PATH`.
        recipe: A `Recipe`, or the name of a preset: `he2015`, `fast` or `adamw`.
        out: The folder of the run; by default `runs/MODEL`.
        seed: The seed of the initial weights, the order of images and their crops.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        compiled: Whether to compile the network.
        resume: The folder of a run or its `checkpoint.pt` to continue from, even if device, torch or recipe differ.
        checkpoint_every: The number of steps between checkpoints.
        test_every: The number of steps between two tests; None tests after every epoch.
        record: Of `responses`, `gradients` and the other groups of `gl.watch`, what `dynamics.csv` gets of every
            layer; the training is the same with or without.
        every: The number of steps between two records, or `log` for records evenly spaced on a logarithmic axis.
        log: With `tensorboard`, metrics and recorded statistics are also written for TensorBoard.
        observe: A function called with the status of the training at every row of `metrics.csv`.
        progress: A function called at every step with the network's name, the number of steps done and their total.

    Returns:
        The loss and the error during training, with the record of the run.

    Raises:
        UsageError: If the arguments are invalid or inconsistent, another run is writing into the folder, or the folder
            contains a run of another kind.
        GradlabError: If the data is missing or the training diverged.
        Interrupted: On Ctrl-C or SIGTERM, after the checkpoint has been written.
    """
    recipe = preset(recipe) if isinstance(recipe, str) else recipe
    recording = Recording((record,) if isinstance(record, str) else tuple(record), every)
    check_run(seed, checkpoint_every, test_every)
    _check_log(log)
    name = network_name(model)
    present, place = team(), Path(out or Path("runs") / name.replace("/", "-"))
    parallel = ALONE if present is None else Parallel(present.rank, present.size)
    # Data may take minutes to read: device and folder are checked before.
    arithmetic = Arithmetic.choose(recipe.amp, pick_device(device))
    with prepared_folder(place) if parallel.is_first else nullcontext():
        network, split = _network_and_data(name, data, recipe, seed)
        check_fit(network, name, split)
        initial = weights_digest(network)
        options: dict[str, Any] = {"seed": seed, "depth": len(weighted_layers(network)), "compiled": compiled}
        trainer = Trainer(network, recipe, split, arithmetic, **options, parallel=parallel)
    stopwatch = Stopwatch()
    asked = {"data": data, "seed": seed, "compiled": compiled}
    facts = _facts(name, trainer, {**asked, "record": list(recording.what), "every": every}, initial, stopwatch)
    config = {
        **{key: facts[key] for key in ("network", "normalization", "recipe", "arithmetic", "device")},
        **asked,
        "fields": recipe.to_dict(),
        "torch": facts["versions"]["torch"],
        "ranks": parallel.size,
    }
    with RunFolder(place, writes=parallel.is_first) as folder:
        begun = _go_on(trainer, folder, config, resume)
        facts |= {"resumed": begun.resumed, "steps": trainer.steps, "complete": False}
        facts["notes"] = [*begun.changes, *_shared_batches(network, recipe, parallel)]
        if trainer.step < trainer.steps:
            lengths = begun.lengths
            written = (METRICS, DYNAMICS) if recording.what else (METRICS,)
            needed = {table: lengths.get(table, 0) for table in written}
            parallel.first(lambda: check_tables(folder.path, needed))
            folder.write_record({**facts, "wall_seconds": begun.seconds})
            with _watched(trainer, folder, recording, log, lengths.get(DYNAMICS, 0), observe) as watching:
                try:
                    trainer.run(
                        folder,
                        config=config,
                        checkpoint_every=checkpoint_every,
                        test_every=test_every,
                        lengths=lengths,
                        progress=partial(progress, name) if progress is not None and parallel.is_first else None,
                        **watching,
                    )
                finally:
                    facts["wall_seconds"] = round(begun.seconds + stopwatch.seconds, 3)
                    folder.write_record(facts)
        # This also applies to a run that was killed between its last checkpoint and this point.
        last = folder.record()
        if not last.get("complete"):
            folder.write_record({**last, "complete": True, "digest": weights_digest(network)})
        return parallel.first(lambda: TrainingResult.load(folder.path))


def _shared_batches(network: nn.Module, recipe: Recipe, parallel: Parallel) -> list[str]:
    """What differs from one process where several share a batch, in a sentence."""
    if parallel.size == 1:
        return []
    batch, each = f"batches of {recipe.batch_size} are shared by {parallel.size} ranks", ""
    if has_batch_norm(network):
        each = ", each of which normalizes by the statistics of its own part"
    return [f"{batch}{each}"]


def _network_and_data(name: str, data: str, recipe: Recipe, seed: int) -> tuple[nn.Module, Split]:
    """The network at initialization, with one output per class of the data, or with data of its own vocabulary."""
    if describe(name).family in ("gpt", "transformers"):
        network = create(name, seed=seed)
        if vocabulary_of(network) is not None:
            return network, load_token_split(data, network, recipe.validation)
    split = load_split(data, recipe.normalization, recipe.validation)
    return create(name, classes=split.classes, seed=seed), split


def _check_log(log: str | None) -> None:
    if log == "tensorboard":
        require_tensorboard()
    elif log is not None:
        raise UsageError(f"log is tensorboard, not {log!r}")


def _facts(name: str, trainer: Trainer, options: dict[str, Any], initial: str, stopwatch: Stopwatch) -> dict[str, Any]:
    """The facts on a run for the record, before it begins."""
    recipe = trainer.recipe
    return make_record(
        "training",
        options={**options, "recipe": recipe.to_dict()},
        device=device_name(trainer.arithmetic.device),
        stopwatch=stopwatch,
        network=name,
        normalization=recipe.normalization,
        recipe=f"gradlab {recipe}, seed {options['seed']}",
        arithmetic=str(trainer.arithmetic),
        initial_weights=initial,
    )


@dataclass(frozen=True)
class _Begun:
    """The state from which a run is continued.

    Attributes:
        resumed: The previous continuations, each with its step and changes.
        changes: The changes of this continuation, one sentence each.
        lengths: The number of bytes of each table that belong to the checkpoint.
        seconds: The time taken so far, in seconds.
    """

    resumed: list[dict[str, Any]]
    changes: list[str]
    lengths: dict[str, int]
    seconds: float


def _go_on(trainer: Trainer, folder: RunFolder, config: dict[str, Any], resume: str | Path | None) -> _Begun:
    """Restore the checkpoint of the folder, or the one to continue from, if there is one."""
    source = folder.path / CHECKPOINT if resume is None else _checkpoint_file(resume)

    def found() -> tuple[dict[str, Any], dict[str, Any]] | None:
        if resume is None and not source.exists():
            return None
        return read_training_checkpoint(source), folder.record()

    if (there := trainer.parallel.first(found)) is None:
        return _Begun([], [], {}, 0.0)
    content, before = there
    content["config"].setdefault("ranks", 1)
    changes = _changes(content["config"], config, forced=resume is not None)
    trainer.restore(content)
    # The tables of another folder are not copied.
    own = source.resolve() == (folder.path / CHECKPOINT).resolve()
    return _Begun(
        resumed=[*before.get("resumed", []), {"step": trainer.step, "changes": changes}],
        changes=changes,
        lengths=content["lengths"] if own else {},
        seconds=float(before.get("wall_seconds", 0.0)),
    )


@contextmanager
def _watched(
    trainer: Trainer,
    folder: RunFolder,
    recording: Recording,
    log: str | None,
    length: int,
    observe: Callable[[Status], None] | None,
) -> Iterator[dict[str, Any]]:
    """The recorder and the observer of a run for `Trainer.run`, with their files open."""
    with ExitStack() as stack:
        first = trainer.parallel.is_first
        board = stack.enter_context(TensorBoard(folder.path, trainer.step)) if log and first else None
        recorder = None
        if recording.what:
            tell = None if board is None else board.dynamics
            recorder = stack.enter_context(
                DynamicsRecorder(
                    trainer.network,
                    trainer.optimizer,
                    recording,
                    folder.path,
                    length=length,
                    start=trainer.step,
                    tell=tell,
                    writes=trainer.parallel.is_first,
                )
            )

        def observe_all(status: Status) -> None:
            if board is not None:
                board.metrics(status.metrics)
            if observe is not None and first:
                observe(status)

        yield {"recorder": recorder, "observe": observe_all}


def check_fit(network: nn.Module, name: str, split: Split) -> None:
    """Check that a network accepts images of this shape.

    Raises:
        UsageError: If it takes another shape.
    """
    expected = input_shape_of(network) or (3, 32, 32)
    given = split.train.shape
    if given != expected:
        raise UsageError(f"{name} takes images of shape {expected}, and these are {given}")


def _checkpoint_file(path: str | Path) -> Path:
    path = Path(path)
    return path / "checkpoint.pt" if path.is_dir() else path


def _changes(before: dict[str, Any], now: dict[str, Any], *, forced: bool) -> list[str]:
    """The differences from the run that is continued, one sentence each.

    Raises:
        UsageError: If the network is another, or there are differences and `resume` was not given.
    """
    if before["network"] != now["network"]:
        raise UsageError(f"the checkpoint holds {before['network']}, not {now['network']}")
    flat = [{**c, **{f"recipe {k}": v for k, v in with_defaults(c["fields"]).items()}} for c in (before, now)]
    keys = [key for key in flat[1] if key not in ("fields", "recipe", "network") and flat[0].get(key) != flat[1][key]]
    said = [f"{key} is {flat[1][key]} and was {flat[0].get(key)}" for key in keys]
    if not forced and (meant := [line for key, line in zip(keys, said, strict=True) if key not in _MADE_ANYWHERE]):
        raise UsageError(
            f"the folder holds another run: {'; '.join(meant)}; give another --out, or go on from it with --resume"
        )
    return [f"the run is continued although {line}" for line in said]
