"""Matching of the names, shapes and types in a state dict to those of a network."""

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
"""A function that renames the entries of a state dict."""

_WRAPPING = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts that wrappers of single modules insert in the middle of names."""

_ROOM = 200
"""Number of characters available for the names of differing entries."""

_COUNTER = "n_averaged"
"""The counter that `torch.optim.swa_utils.AveragedModel` keeps next to the network."""


@dataclass(frozen=True)
class Fit:
    """A state dict with a network's names, and the differences between the two.

    Attributes:
        state: The state dict, with the network's own names where they match.
        missing: Names that the network has but the file lacks, weights first.
        extra: Names that the file has but the network lacks.
        wrong: Phrases on values of another shape or type.
        classes: The number of outputs of the file's head, if no other shape differs; otherwise None.
    """

    state: dict[str, Any]
    missing: list[str]
    extra: list[str]
    wrong: list[str]
    classes: int | None

    def __bool__(self) -> bool:
        """Return whether the state dict fits."""
        return not (self.missing or self.extra or self.wrong)

    @property
    def distance(self) -> int:
        """The number of entries that differ."""
        return len(self.missing) + len(self.extra) + len(self.wrong)

    @property
    def faults(self) -> str:
        """A description of all differences."""
        kinds = [kind for kind in (self.missing, self.extra, self.wrong) if kind]
        room = _ROOM // max(len(kinds), 1)
        parts = (
            f"it lacks {some(self.missing, room)}" if self.missing else "",
            f"it has {some(self.extra, room)} too" if self.extra else "",
            some(self.wrong, room) if self.wrong else "",
        )
        return "; ".join(filter(None, parts))


def own_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Rename a state dict to our networks' keys: `linear` becomes `fc`, and `downsample` becomes `shortcut`."""
    names = (re.sub(r"^linear\.", "fc.", key.replace(".downsample.", ".shortcut.")) for key in state)
    return dict(zip(names, state.values(), strict=True))


def best_fit(own: Mapping[str, Any], state: Mapping[str, Any], names: Names = dict) -> Fit:
    """Match a state dict to a network's, with its names unchanged and then with prefixes removed or added.

    Unchanged names are tried first, so that a network with a single child called `model` is handled like any other.
    Then common prefixes and the insertions of wrappers are removed one by one, and common prefixes of the network's
    names are added.

    Args:
        own: The network's state dict.
        state: The file's state dict.
        names: A function that is applied to each variant of the file's state dict to rename its entries.

    Returns:
        The first match that fits, or otherwise the one with the fewest differences.
    """
    fits = []
    for candidate in _readings(own, state):
        fits.append(_compare(own, names(candidate)))
        if fits[-1]:
            break
    return min(fits, key=lambda fit: fit.distance)


def bare(state: Mapping[str, Any]) -> dict[str, Any]:
    """Remove all common prefixes and the insertions of wrappers from the names of a state dict."""
    *_, last = _stripped({_WRAPPING.sub("", key): value for key, value in state.items()})
    return last


def common_prefix(state: Mapping[str, Any]) -> str:
    """Return the first part common to all names, with its dot, or an empty string."""
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
    """Yield the state dict unchanged, and then with one more common prefix removed each time."""
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
    """Compare names, shapes and types of a state dict with a network's; counters of batches may be missing."""
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
    """Return the shape of a tensor, or None for a lazy parameter, whose shape is that of the loaded value."""
    return tuple(value.shape) if isinstance(value, Tensor) and not is_lazy(value) else None


def _aliases(own: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return for each name the names that share its values, as tied weights do, including itself."""
    places: dict[object, list[str]] = {}
    for name, value in own.items():
        known = isinstance(value, Tensor) and not is_lazy(value) and value.layout == torch.strided and value.numel()
        place: object = (value.data_ptr(), value.shape, value.stride()) if known else name
        places.setdefault(place, []).append(name)
    return {name: names for names in places.values() for name in names}


def _classes(pairs: list[tuple[tuple[int, ...] | None, tuple[int, ...] | None]]) -> int | None:
    """Return the new number of classes if shapes differ only in that, or None."""
    changes = {(ours[0], theirs[0]) for ours, theirs in pairs if ours and theirs and ours[1:] == theirs[1:]}
    alike = all(ours and theirs and ours[1:] == theirs[1:] for ours, theirs in pairs)
    return changes.pop()[1] if alike and len(changes) == 1 else None


def _other_values(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Describe values that the network's dtypes cannot hold, and tied weights with two different values in the file."""
    wrong, seen = [], set()
    aliases = _aliases(own)
    for name, value in given.items():
        ours = own.get(name)
        if not isinstance(ours, Tensor) or not isinstance(value, Tensor) or is_lazy(ours):
            continue
        if value.is_complex() and not ours.is_complex():
            wrong.append(f"{name} is complex")
        elif _is_whole(value) != _is_whole(ours) and (_is_whole(value) or value.float().frac().any()):
            # Whole numbers for a weight are codes of a quantization, whose scale is elsewhere.
            wrong.append(f"{name} is {str(value.dtype)[6:]} and not {str(ours.dtype)[6:]}")
        first = next((other for other in aliases[name] if other in given and other in seen), None)
        if first is not None and given[first].shape == value.shape and not _same(given[first], value):
            wrong.append(f"{first} and {name} differ and are one in the network")
        seen.add(name)
    return wrong


def _is_whole(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex())


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
