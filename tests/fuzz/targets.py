"""What is tried with random input: each a strategy, and what is done with a value of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import strategies as drawn
from fuzz.checkpoint_files import pickled
from fuzz.limits import said
from fuzz.saved_results import changed_results, show
from gradlab.checkpoints import bare, own_names, read_checkpoint, split_key
from gradlab.data.datasets import load_dataset
from gradlab.errors import GradlabError
from gradlab.models import infer_architectures
from gradlab.normalization import Normalization, split_specs
from gradlab.training import PRESETS, read_training_checkpoint
from gradlab.training.run_folder import RunFolder


@dataclass(frozen=True)
class Target:
    """Something that takes untrusted input.

    Attributes:
        inputs: What is drawn.
        act: What is done with it; raises gradlab's errors and no others.
        share: Of all cases.
    """

    inputs: st.SearchStrategy[Any]
    act: Callable[[Any], object]
    share: float


def in_file(name: str, act: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Do something with a file of that name that has these bytes."""

    def do(content: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            return act(path)

    return do


def act_on_weights(path: Path) -> None:
    state, _ = read_checkpoint(path)
    infer_architectures(own_names(bare(state)))


def act_on_pickle(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pickled(Path(folder) / "w.pt", content)
        act_on_weights(Path(folder) / "w.pt")


def act_on_npz(path: Path) -> None:
    for part in ("", ":train"):
        try:
            dataset = load_dataset(f"{path}{part}")
        except GradlabError:
            if part:
                raise
        else:
            dataset.read(0, 1, (3, 8, 8))


def act_on_image(path: Path) -> None:
    load_dataset(f"imagefolder:{path.parent}").read(0, 1, (3, 8, 8))


def act_on_spec(text: str) -> None:
    split_key(text)
    for spec in split_specs([text]):
        Normalization(spec)


def act_on_record(path: Path) -> None:
    RunFolder(path.parent).record().get("resumed", [])


TARGETS = {
    "damaged checkpoints": Target(drawn.CHECKPOINTS, in_file("w.pth", act_on_weights), 0.15),
    "odd contents": Target(st.builds(drawn.saved, drawn.CONTENTS, st.booleans()), in_file("w.pt", act_on_weights), 0.1),
    "random pickles": Target(drawn.PICKLES, act_on_pickle, 0.15),
    "safetensors": Target(drawn.safetensors_files(), in_file("w.safetensors", act_on_weights), 0.1),
    "trainings": Target(drawn.TRAININGS.map(drawn.saved), in_file("checkpoint.pt", read_training_checkpoint), 0.1),
    "arrays": Target(drawn.npz_files(), in_file("d.npz", act_on_npz), 0.1),
    "images": Target(drawn.image_files(), in_file("a.png", act_on_image), 0.05),
    "recipes": Target(drawn.RECIPES, lambda fields: PRESETS["fast"].changed(**fields), 0.05),
    "texts": Target(drawn.SPECS, act_on_spec, 0.05),
    "records": Target(
        drawn.damaged(b'{"resumed": [], "wall_seconds": 1.5}'), in_file("record.json", act_on_record), 0.05
    ),
    "saved results": Target(changed_results(), show, 0.1),
}


def tried(target: Target, cases: int, derandomize: bool = False) -> dict[str, int]:
    """Try a target with so many cases.

    Returns:
        How many were taken and how many refused.

    Raises:
        Exception: Whatever is none of gradlab's errors, or an error that is no short sentence; the case is printed.
    """
    counts = {"taken": 0, "refused": 0}

    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=[*HealthCheck], derandomize=derandomize
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        value = data.draw(target.inputs)
        counts["taken" if said(lambda: target.act(value)) is None else "refused"] += 1

    check()
    return counts
