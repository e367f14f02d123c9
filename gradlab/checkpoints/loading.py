"""Loading of a file's weights into a network: choice of the state dict, names, and errors if none fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradlab.checkpoints.choosing import StateDict
from gradlab.checkpoints.fitting import Fit, Names, best_fit, common_prefix
from gradlab.checkpoints.wording import reason, sentence, shown, some
from gradlab.errors import GradlabError, UsageError

Explain = Callable[[Mapping[str, Any], str], str]
"""A function from a state dict that does not fit and a description of its differences to an explanation."""


MOST_CLASSES = 1_000_000
"""Largest number of outputs of a head that is built to match a file."""


@dataclass(frozen=True)
class Loaded:
    """A network with the weights of a file.

    Attributes:
        model: The network.
        key: The keys of the weights in the file; empty for the file itself.
        classes: The number of outputs of the head if it differs from the network's default, otherwise None.
        note: A sentence on the choice among several state dicts; None if there was only one.
    """

    model: nn.Module
    key: str
    classes: int | None
    note: str | None


@dataclass(frozen=True)
class _Try:
    """One state dict of a file, compared with the network."""

    found: StateDict
    fit: Fit
    model: nn.Module
    classes: int | None = None


def load_weights(
    create: Callable[[int | None], nn.Module],
    found: Sequence[StateDict],
    path: str | Path,
    name: str,
    *,
    names: Names = dict,
    resizable: bool = True,
    explain: Explain | None = None,
) -> Loaded:
    """Build a network and load the state dict of a file that fits it completely.

    Args:
        create: A function that builds the network with a number of classes, or None for its default.
        found: The file's state dicts, in order of preference.
        path: The path of the file, for errors.
        name: The name of the network, for errors.
        names: A function that renames the file's entries; see `best_fit`.
        resizable: Whether `create` can build the network with other numbers of classes.
        explain: A function that describes a state dict, for errors.

    Raises:
        UsageError: If no state dict fits, or several do and none has a usual key. The message states the differences
            and the file's keys.
        GradlabError: If the values cannot be copied.
    """
    model = create(None)
    attempt_one = partial(_attempt, model, create if resizable else None, names)
    tries = [attempt_one(item) for item in found]
    fitting = [attempt for attempt in tries if attempt.fit]
    if not fitting:
        raise UsageError(sentence(_misfit(tries, path, name, explain, attempt_one)))
    best = fitting[0]
    keys = [item.key or "the file itself" for item in found]
    if len(fitting) > 1 and not best.found.usual and best.found.key:
        both = some([attempt.found.key for attempt in fitting])
        raise UsageError(
            f"{shown(path)} holds several state dicts that fit {name}, {both}: choose one, as "
            f"{name}@PATH:{best.found.key}"
        )
    _fill(best.model, best.fit.state, path, name)
    note = None
    if len(found) > 1:
        note = (
            f"{Path(path).name} holds {some(keys)}; {best.found.key or 'the file itself'} was read "
            f"({name}@PATH:KEY chooses)"
        )
    return Loaded(best.model, best.found.key, best.classes, note)


def _attempt(model: nn.Module, create: Callable[[int | None], nn.Module] | None, names: Names, item: StateDict) -> _Try:
    """Compare a state dict with the network, and with one that has as many classes as the file's head."""
    fit = best_fit(model.state_dict(), item.state, names)
    # A file that lacks weights fits with no head, and building one would only cost memory.
    if fit.classes and fit.classes <= MOST_CLASSES and not fit.missing and create is not None:
        other = create(fit.classes)
        resized = best_fit(other.state_dict(), item.state, names)
        if resized.distance < fit.distance:
            return _Try(item, resized, other, fit.classes)
    return _Try(item, fit, model)


def _misfit(
    tries: Sequence[_Try], path: str | Path, name: str, explain: Explain | None, attempt: Callable[[StateDict], _Try]
) -> str:
    """Explain why no state dict fits, by the differences of the nearest one and by parts that would fit."""
    nearest = tries[0] if tries[0].found.usual else min(tries, key=lambda one: one.fit.distance)
    faults = nearest.fit.faults
    held = explain(nearest.found.state, faults) if explain else f"does not fit {name}: {faults}"
    text = f"{shown(path)}{f':{nearest.found.key}' if len(tries) > 1 and nearest.found.key else ''} {held}"
    if parts := _parts(nearest.found, attempt):
        fits = f"its part {parts[0]} fits" if len(parts) == 1 else f"its parts {some(parts)} fit"
        return f"{text}; {fits}: give {name}@PATH:{parts[0]}"
    if len(tries) > 1:
        others = [one.found.key or "the file itself" for one in tries]
        return f"{text}; of its keys {some(others)} none fits ({name}@PATH:KEY chooses)"
    return text


def _parts(found: StateDict, attempt: Callable[[StateDict], _Try]) -> list[str]:
    """Return the keys of the parts of a state dict, defined by prefixes of names, that fit on their own."""
    state, before = found.state, found.key
    while prefix := common_prefix(state):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        before = f"{before}.{prefix[:-1]}" if before else prefix[:-1]
    heads = dict.fromkeys(key.partition(".")[0] for key in state if "." in key)
    fitting = []
    for head in heads if len(state) > 1 else ():
        inner = {key.removeprefix(f"{head}."): value for key, value in state.items() if key.startswith(f"{head}.")}
        key = f"{before}.{head}" if before else head
        if attempt(StateDict(key, inner, False)).fit:
            fitting.append(key)
    return fitting


def _fill(model: nn.Module, state: Mapping[str, Any], path: str | Path, name: str) -> None:
    """Copy matching values into a network."""
    for value in model.state_dict(keep_vars=True).values():
        # An expanded tensor, which has one value for many elements, cannot be written to.
        if isinstance(value, Tensor) and any(n > 1 and step == 0 for n, step in _steps(value)):
            value.data = value.data.contiguous()
    try:
        model.load_state_dict(dict(state), strict=False)
    except Exception as error:  # hooks of a module may raise anything
        raise GradlabError(f"{shown(path)} cannot be loaded into {name}: {reason(error)}") from None


def _steps(value: Tensor) -> list[tuple[int, int]]:
    """Return the size and stride of each dimension, or nothing for a tensor without strides."""
    if is_lazy(value) or value.layout != torch.strided:
        return []
    return list(zip(value.shape, value.stride(), strict=True))
