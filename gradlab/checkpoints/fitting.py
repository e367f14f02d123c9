"""Names of parameters as others write them, held against a network's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from gradlab.checkpoints.wording import some

Names = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Renames the entries of a state dict."""

_WRAPPING = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What wrappers of single modules leave in the middle of names."""

_ROOM = 200
"""Characters for the names of what differs."""

_COUNTER = "n_averaged"
"""How many models `torch.optim.swa_utils.AveragedModel` has averaged: beside the network, not of it."""


@dataclass(frozen=True)
class Fit:
    """A state dict under a network's names, and where they differ.

    Attributes:
        state: Under the network's own names, as far as there are any.
        missing: Names that the network has and the file lacks, weights first.
        extra: Names that the file has too.
        wrong: Sentences on values of another shape or type.
        classes: Outputs of the head where no other shape differs, else None.
    """

    state: dict[str, Any]
    missing: list[str]
    extra: list[str]
    wrong: list[str]
    classes: int | None

    def __bool__(self) -> bool:
        """Whether it fits."""
        return not (self.missing or self.extra or self.wrong)

    @property
    def distance(self) -> int:
        """In how many entries they differ."""
        return len(self.missing) + len(self.extra) + len(self.wrong)

    @property
    def faults(self) -> str:
        """All that differs, in words."""
        kinds = [kind for kind in (self.missing, self.extra, self.wrong) if kind]
        room = _ROOM // max(len(kinds), 1)
        parts = (
            f"it lacks {some(self.missing, room)}" if self.missing else "",
            f"it has {some(self.extra, room)} too" if self.extra else "",
            some(self.wrong, room) if self.wrong else "",
        )
        return "; ".join(filter(None, parts))


def own_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict under our networks' key names: `linear` is `fc`, `downsample` is `shortcut`."""
    names = (re.sub(r"^linear\.", "fc.", key.replace(".downsample.", ".shortcut.")) for key in state)
    return dict(zip(names, state.values(), strict=True))


def best_fit(own: Mapping[str, Any], state: Mapping[str, Any], names: Names = dict) -> Fit:
    """Hold a state dict against a network's: as it is, then without what all names begin with.

    The names are taken as they are first, so that a network of one child called `model` is read as any other. Then
    prefixes that all of them have are taken off one by one, what wrappers leave in the middle of names too, and
    prefixes that all of the network's names have are put before them.

    Args:
        own: The network's state dict.
        state: The file's.
        names: Applied to the file's names behind all that.

    Returns:
        The first that fits, else the one that differs least.
    """
    fits = []
    for candidate in _readings(own, state):
        fits.append(_compare(own, names(candidate)))
        if fits[-1]:
            break
    return min(fits, key=lambda fit: fit.distance)


def bare(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without all that its names have in front of them in common, and without wrappers' traces."""
    *_, last = _stripped({_WRAPPING.sub("", key): value for key, value in state.items()})
    return last


def common_prefix(state: Mapping[str, Any]) -> str:
    """The first part that all names have, with its dot; empty where there is none."""
    heads = {key.partition(".")[0] for key in state}
    return f"{heads.pop()}." if len(heads) == 1 and all("." in key for key in state) else ""


def _readings(own: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    seen: set[tuple[str, ...]] = set()
    unwrapped = {_WRAPPING.sub("", key): value for key, value in state.items()}
    shorter = [*_stripped(state), *(_stripped(unwrapped) if len(unwrapped) == len(state) else ())]
    *_, innermost = _stripped(own)
    whole = next(iter(own), "").removesuffix(next(iter(innermost), ""))
    parts = whole.split(".")[:-1]
    prefixes = [".".join([*parts[start:], ""]) for start in range(len(parts), -1, -1)]
    for prefix in prefixes:
        for candidate in shorter:
            reading = {prefix + key: value for key, value in candidate.items()}
            if (key := tuple(reading)) not in seen:
                seen.add(key)
                yield reading


def _stripped(state: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The state dict as it is, then with one common prefix less each time."""
    state = dict(state)
    yield state
    while True:
        inner = {key: value for key, value in state.items() if key != _COUNTER}
        prefix = common_prefix(inner)
        if not prefix:
            return
        state = {key.removeprefix(prefix): value for key, value in inner.items()}
        yield state


def _compare(own: Mapping[str, Any], state: Mapping[str, Any]) -> Fit:
    """Names, shapes and types of a state dict held against a network's; a counter of batches may be missing."""
    given = {k: v for k, v in state.items() if k in own or not _unimportant(k)}
    aliases = _aliases(own)
    missing = [
        k for k in own if k not in given and not _unimportant(k) and not any(other in given for other in aliases[k])
    ]
    shapes = {k: (_shape(own[k]), _shape(given[k])) for k in own if k in given and isinstance(given[k], Tensor)}
    different = {k: pair for k, pair in shapes.items() if None not in pair and pair[0] != pair[1]}
    return Fit(
        dict(given),
        sorted(missing, key=lambda k: not (isinstance(own[k], Tensor) and own[k].ndim > 1)),
        [k for k in given if k not in own],
        [f"{k} is {theirs} and not {ours}" for k, (ours, theirs) in different.items()] + _other_values(own, given),
        _classes(list(different.values())),
    )


def _unimportant(name: str) -> bool:
    return name.endswith(("num_batches_tracked", "_extra_state"))


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor; None of a parameter that gets its own by what is loaded."""
    return tuple(value.shape) if isinstance(value, Tensor) and not is_lazy(value) else None


def _aliases(own: Mapping[str, Any]) -> dict[str, list[str]]:
    """For each name those of the very same values, itself among them: tied weights."""
    places: dict[object, list[str]] = {}
    for name, value in own.items():
        known = isinstance(value, Tensor) and not is_lazy(value) and value.layout == torch.strided and value.numel()
        place: object = (value.data_ptr(), value.shape, value.stride()) if known else name
        places.setdefault(place, []).append(name)
    return {name: names for names in places.values() for name in names}


def _classes(pairs: list[tuple[tuple[int, ...] | None, tuple[int, ...] | None]]) -> int | None:
    """The new number of classes where shapes differ in that alone."""
    changes = {(ours[0], theirs[0]) for ours, theirs in pairs if ours and theirs and ours[1:] == theirs[1:]}
    alike = all(ours and theirs and ours[1:] == theirs[1:] for ours, theirs in pairs)
    return changes.pop()[1] if alike and len(changes) == 1 else None


def _other_values(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Sentences on values that the network's types cannot hold, and on those that it holds once and the file twice."""
    wrong, seen = [], set()
    aliases = _aliases(own)
    for name, value in given.items():
        ours = own.get(name)
        if not isinstance(ours, Tensor) or not isinstance(value, Tensor) or is_lazy(ours):
            continue
        if value.is_complex() and not ours.is_complex():
            wrong.append(f"{name} is complex")
        elif (
            value.is_floating_point()
            and not (ours.is_floating_point() or ours.is_complex())
            and value.float().frac().any()
        ):
            wrong.append(f"{name} is {str(value.dtype)[6:]} and not {str(ours.dtype)[6:]}")
        first = next((other for other in aliases[name] if other in given and other in seen), None)
        if first is not None and given[first].shape == value.shape and not _same(given[first], value):
            wrong.append(f"{first} and {name} differ and are one in the network")
        seen.add(name)
    return wrong


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
