"""How much of a model a result is of: which parameters were measured, and which were not and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from gradlab.results.grouping import listed


@dataclass(frozen=True)
class Coverage:
    """Elements of parameters measured, over those that the model has; a tied parameter counts once.

    Attributes:
        measured: Elements of parameters measured.
        total: Elements of all parameters.
        weights_measured: Of parameters with two or more dimensions, those measured.
        weights_total: Elements of all parameters with two or more dimensions.
        layers_measured: Weight layers measured.
        layers_total: Weight layers that the model has.
        left_out: Names of layers and parameters that were not measured, by the reason.
    """

    measured: int
    total: int
    weights_measured: int
    weights_total: int
    layers_measured: int
    layers_total: int
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The part of all elements that was measured; 1 where there are none."""
        return self.measured / self.total if self.total else 1.0

    @property
    def weights_share(self) -> float:
        """The part of the weights' elements that was measured; 1 where there are none."""
        return self.weights_measured / self.weights_total if self.weights_total else 1.0

    def __str__(self) -> str:
        return _several([self])

    def as_record(self) -> dict[str, Any]:
        """Plain values for a record, with both shares."""
        return asdict(self) | {"share": self.share, "weights_share": self.weights_share}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """What `as_record` gave."""
        return cls(**{item.name: record[item.name] for item in fields(cls)})

    @classmethod
    def together(cls, parts: Mapping[str, Coverage]) -> Coverage:
        """That of several networks, whose names stand before those of their layers; one network's is its own.

        Args:
            parts: By the network's name, at least one.
        """
        if len(parts) == 1:
            return next(iter(parts.values()))
        sums = {item.name: sum(getattr(part, item.name) for part in parts.values()) for item in fields(cls)[:-1]}
        left_out: dict[str, list[str]] = {}
        for network, part in parts.items():
            for reason, names in part.left_out.items():
                left_out.setdefault(reason, []).extend(f"{network}: {name}" for name in names)
        return cls(**sums, left_out=left_out)


def coverage_lines(parts: Mapping[str, Coverage], networks: int) -> list[str]:
    """A sentence for the networks of which the same was left out; without their names where it is true of all.

    Args:
        parts: By the network's name.
        networks: How many there are, those included whose coverage is not known.
    """
    groups: dict[tuple[str, ...], dict[str, Coverage]] = {}
    for network, part in parts.items():
        groups.setdefault(tuple(part.left_out), {})[network] = part
    if len(groups) == 1 and len(parts) == networks:
        return [_several([*parts.values()])]
    return [f"{listed([*group])}: {_several([*group.values()])}" for group in groups.values()]


def _several(parts: Sequence[Coverage]) -> str:
    """What networks have in common of which the same was left out, and from where to where their numbers go."""
    layers, of = (_range([getattr(p, name) for p in parts], str) for name in ("layers_measured", "layers_total"))
    share = _range([100 * part.share for part in parts], coverage_text)
    text = (
        f"measured {layers} of {of} weight layers, {share} % of {_range([p.total for p in parts], _count)} parameters"
    )
    lost = [f"{_names([part.left_out[reason] for part in parts])} ({reason})" for reason in parts[0].left_out]
    return f"{text}; not measured: {', '.join(lost)}" if lost else text


def _range(numbers: Sequence[Any], text: Callable[[Any], str]) -> str:
    """The least and the greatest, or the one there is."""
    return " to ".join(dict.fromkeys(map(text, (min(numbers), max(numbers)))))


def coverage_text(percent: float) -> str:
    """A share in percent, which is called 100 only where nothing is missing."""
    return "100" if percent >= 100 else f"{math.floor(10 * percent) / 10:.1f}"


def _count(number: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,}"


def _names(lists: Sequence[Sequence[str]]) -> str:
    """The first names that all lists have, and how many there are."""
    common = [name for name in lists[0] if all(name in names for names in lists[1:])]
    shown, most = common[:3], max(map(len, lists))
    more = [f"… {_range([*map(len, lists)], str)} in all"] if most > len(shown) else []
    return ", ".join([*shown, *more])
