"""The state dicts in a file, and the selection of one by its key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlab.checkpoints.wording import shown, some
from gradlab.errors import GradlabError, UsageError

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params"),
    *("ema", "ema_state_dict", "state_dict_ema", "model_ema", "params_ema"),
)
"""Keys under which other projects store a network's weights, in order of preference."""

_NO_WEIGHTS = re.compile(r"optim|sched|scaler|rng|random", re.IGNORECASE)
"""Matches keys of training state that is not part of a network."""

_DEEPEST = 5
_MOST_LOOKED_AT = 200_000
"""Largest number of entries of nested mappings and lists, which can be exponential in the depth of shared lists."""

LONGEST_NAME = 1000
"""Largest number of characters of a tensor's name."""

_NOWHERE = object()


@dataclass(frozen=True)
class StateDict:
    """One of the state dicts in a file.

    Attributes:
        key: The keys that lead to it, joined by dots; empty for the file itself.
        state: The tensors by name, and the modules' `_extra_state`, as stored in the file.
        usual: Whether all its keys are in `WRAPPERS`.
    """

    key: str
    state: dict[str, Any]
    usual: bool


def split_key(text: str) -> tuple[Path, str]:
    """Split `PATH[:KEY]` into an existing path, which may contain colons, and the key after it.

    Args:
        text: The text that a user gave, in which `~` is the home folder.

    Returns:
        The path and the key, or the whole text and no key if no such path exists.
    """
    end = len(text)
    # The functions of `os.path` treat a path that is too long as one that does not exist.
    while not os.path.exists(os.path.expanduser(text)) and (end := text.rfind(":", 0, end)) > 0:
        path = os.path.expanduser(text[:end])
        if os.path.isfile(path):
            return Path(path), text[end + 1 :]
    return Path(os.path.expanduser(text)), ""


def state_dicts(content: object, key: str, path: str | Path) -> list[StateDict]:
    """Find the state dicts in a file's content, in order of preference.

    Args:
        content: The content of the file: nested mappings of tensors.
        key: The keys under which to search, joined by dots. The last part may be a common prefix of tensor names
            (`generator` for `generator.conv.weight`). If empty, everything except training state is searched.
        path: The path of the file, for errors.

    Raises:
        UsageError: If there is no such key. The message lists the keys that exist.
        GradlabError: If there are no named tensors, or they are sparse, quantized or without values.
    """
    there = _at(content, key)
    if there is _NOWHERE:
        raise UsageError(f"{shown(path)} has no {some([key])!r}: {_keys(content)}")
    try:
        found = sorted(_Search(bool(key)).at(there, ()), key=lambda item: _order(item[0]))
    except GradlabError as error:
        raise GradlabError(f"{shown(path)} {error}") from None
    if not found:
        place = f" under {some([key])!r}" if key else ""
        raise GradlabError(f"{shown(path)} holds no state dict{place}, no tensors by name: {_keys(there)}")
    # State dicts without matrices, such as counters, are no network, unless there is nothing else.
    weights = [item for item in found if any(isinstance(v, Tensor) and v.ndim > 1 for v in item[1].values())]
    chosen = weights or found
    if (odd := _odd(chosen[0][1])) is not None:
        raise GradlabError(f"{shown(path)}: {odd}; save the dense values, on the CPU")
    return [
        StateDict(".".join(filter(None, (key, *keys))), state, all(k in WRAPPERS for k in keys))
        for keys, state in chosen
        if _odd(state) is None
    ]


def _children(content: object) -> dict[str, Any]:
    """Return the items of a mapping by name, or of a list by index."""
    if isinstance(content, Mapping):
        return {key: value for key, value in content.items() if isinstance(key, str)}
    if isinstance(content, list | tuple):
        return {str(place): value for place, value in enumerate(content)}
    return {}


def _keys(content: object) -> str:
    """Describe the keys of some content for a message."""
    if isinstance(content, Mapping | list | tuple):
        keys = list(_children(content))
        return f"its keys are {some(keys)}" if keys else "it is empty"
    return f"it is a {type(content).__name__}"


def _at(content: object, key: str) -> object:
    """Return the content under a key, or `_NOWHERE`; keys may contain dots themselves."""
    if not key:
        return content
    children, parts = _children(content), key.split(".")
    for count in range(len(parts), 0, -1):
        head = ".".join(parts[:count])
        if head in children and (found := _at(children[head], ".".join(parts[count:]))) is not _NOWHERE:
            return found
    under = {name.removeprefix(f"{key}."): value for name, value in children.items() if name.startswith(f"{key}.")}
    return under or _NOWHERE


class _Search:
    """Searches for mappings with named tensors.

    Args:
        everything: Whether to search training state, such as that of optimizers, as well.
    """

    def __init__(self, everything: bool) -> None:
        self.everything = everything
        self._left = _MOST_LOOKED_AT

    def at(self, content: object, keys: tuple[str, ...]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
        """Return the state dicts in some content, each with the keys that lead to it."""
        found = []
        children = _children(content)
        self._left -= len(children)
        if self._left < 0:
            raise GradlabError(f"has more than {_MOST_LOOKED_AT:,} entries within one another: save its state_dict()")
        if isinstance(content, Mapping):
            kept = {k: v for k, v in children.items() if isinstance(v, Tensor) or k.endswith("_extra_state")}
            if any(isinstance(value, Tensor) for value in kept.values()):
                if (longest := max(map(len, kept))) > LONGEST_NAME:
                    raise GradlabError(f"has a tensor with a name of {longest:,} characters")
                found.append((keys, kept))
        if len(keys) < _DEEPEST:
            for key, value in children.items():
                if isinstance(value, Mapping | list | tuple) and (self.everything or not _NO_WEIGHTS.search(key)):
                    found += self.at(value, (*keys, key))
        return found


def _odd(state: Mapping[str, Any]) -> str | None:
    """Say which tensor is not an ordinary dense tensor with values, and why; None if all are."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        if value.is_nested or value.layout != torch.strided:
            return f"{some([name])} is of layout {'nested' if value.is_nested else str(value.layout)[6:]}"
        if value.is_quantized or value.is_meta:
            return f"{some([name])} is {'quantized' if value.is_quantized else 'on the meta device, without values'}"
    return None


def _order(keys: tuple[str, ...]) -> tuple[int, ...]:
    """Return a sort key: usual keys first, then tensors next to them, then other keys in the file's order."""
    ranks = (WRAPPERS.index(key) if key in WRAPPERS else len(WRAPPERS) + 1 for key in keys)
    return (*ranks, len(WRAPPERS))
