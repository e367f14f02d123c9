"""Reading and validation of a training checkpoint before a run resumes from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gradlab.checkpoints import read_torch_file
from gradlab.checkpoints.wording import shown
from gradlab.errors import GradlabError, UsageError


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint, on the CPU.

    Raises:
        UsageError: If there is no such file, or it is not a checkpoint of a gradlab training.
        GradlabError: If it is damaged.
    """
    if not os.path.isfile(path):
        what = "is not a regular file" if os.path.exists(path) else "does not exist"
        raise UsageError(f"{shown(path)} {what}")
    content = read_torch_file(path)
    if not isinstance(content, dict) or not {"model", "optimizer", "step", "config"} <= content.keys():
        raise UsageError(f"{shown(path)} holds weights alone and no training to resume")
    content = {"lengths": {}, **content}
    for key, (fits, kind) in _PARTS.items():
        if not fits(content.get(key)):
            raise UsageError(
                f"{shown(path)} is no checkpoint of a gradlab training: its {key} is not {kind}; --resume takes a run "
                "of gradlab train"
            )
    return content


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) for k in value)


def _is_optimizer(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("state"), dict)
        and isinstance(value.get("param_groups"), list)
    )


def _is_window(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == 2 and value.is_floating_point()


def _is_random(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("cpu"), Tensor)


def _is_lengths(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_count(n) for n in value.values())


def _is_config(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("network"), str)
        and isinstance(value.get("fields"), Mapping)
        and all(isinstance(key, str) for key in value)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


_PARTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (_is_state, "tensors by name"),
    "optimizer": (_is_optimizer, "an optimizer's state"),
    "step": (_is_count, "a number of steps"),
    "warming_up": (lambda value: isinstance(value, bool), "true or false"),
    "window": (_is_window, "losses and errors of steps"),
    "random": (_is_random, "the state of random numbers"),
    "lengths": (_is_lengths, "lengths of tables"),
    "config": (_is_config, "the description of a run"),
}
"""The entries of a checkpoint, each with a function that validates it and a description."""


def check_optimizer(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that the saved state of an optimizer has the same options as its own.

    Args:
        own: The optimizer's own `state_dict()`.
        saved: The state dict in the checkpoint.

    Raises:
        GradlabError: If an option of a parameter group is missing or has another type.
    """
    for ours, theirs in zip(own["param_groups"], saved["param_groups"], strict=False):
        for name, value in ours.items():
            other = theirs.get(name) if isinstance(theirs, Mapping) else None
            numbers = isinstance(value, int | float) and isinstance(other, int | float)
            if not numbers and type(other) is not type(value):
                raise GradlabError(f"its optimizer has no such {name} as a training has")
