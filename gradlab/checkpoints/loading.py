"""A file's weights into a network: which of its state dicts, under which names, and what to say when none fits."""

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
"""Says of a state dict what it holds that does not fit, given all that differs in words."""


MOST_CLASSES = 1_000_000
"""Outputs of a head that a file may ask for; its weights are in the file."""


@dataclass(frozen=True)
class Loaded:
    """A network with the weights of a file.

    Attributes:
        model: The network.
        key: Under which keys the file has them; empty for the file itself.
        classes: Outputs of the head where they are not as many as the network has by itself, else None.
        note: A sentence on the choice among several state dicts; None where there was none.
    """

    model: nn.Module
    key: str
    classes: int | None
    note: str | None


@dataclass(frozen=True)
class _Try:
    """One state dict of a file held against the network."""

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
    """Build a network and load the state dict of a file that fits it, all of it.

    Args:
        create: Builds the network; takes the number of classes, None for the network's own.
        found: The file's state dicts, those that are taken first first.
        path: The file, for errors.
        name: What the network is called, for errors.
        names: Renames the file's entries; see `best_fit`.
        resizable: Whether `create` builds the network with other numbers of classes.
        explain: Says what a state dict holds, for errors.

    Raises:
        UsageError: When none fits, or several do of which none is usual; it says what differs, and the file's keys.
        GradlabError: When the values cannot be copied.
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
    """Hold a state dict against the network, and against one of as many classes as its head has."""
    fit = best_fit(model.state_dict(), item.state, names)
    # A file that lacks weights fits no head; what it says of the number of outputs would cost memory alone.
    if fit.classes and fit.classes <= MOST_CLASSES and not fit.missing and create is not None:
        other = create(fit.classes)
        resized = best_fit(other.state_dict(), item.state, names)
        if resized.distance < fit.distance:
            return _Try(item, resized, other, fit.classes)
    return _Try(item, fit, model)


def _misfit(
    tries: Sequence[_Try], path: str | Path, name: str, explain: Explain | None, attempt: Callable[[StateDict], _Try]
) -> str:
    """Why no state dict of a file fits: what differs in the one that is nearest, and what else could be meant."""
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
    """The keys of those parts of a state dict, by what their names begin with, that fit by themselves."""
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
    """Copy values that fit into a network."""
    for value in model.state_dict(keep_vars=True).values():
        # Into an expanded tensor, one value for many places, nothing can be written.
        if isinstance(value, Tensor) and any(n > 1 and step == 0 for n, step in _steps(value)):
            value.data = value.data.contiguous()
    try:
        model.load_state_dict(dict(state), strict=False)
    except Exception as error:  # a module's own hooks may raise anything
        raise GradlabError(f"{shown(path)} cannot be loaded into {name}: {reason(error)}") from None


def _steps(value: Tensor) -> list[tuple[int, int]]:
    """Size and stride of each dimension, of a tensor that has them."""
    if is_lazy(value) or value.layout != torch.strided:
        return []
    return list(zip(value.shape, value.stride(), strict=True))
