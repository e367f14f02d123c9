"""The coverage of a model by a result: the parameters that were measured, and those left out with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from gradlab.results.grouping import counted, listed

_ALIKE = 0.05
"""Largest difference of the fractions measured of networks that share a sentence."""


@dataclass(frozen=True)
class Coverage:
    """The number of measured elements of parameters, and of those in the model; a tied parameter counts once.

    Attributes:
        measured: The number of measured elements of parameters.
        total: The number of elements of all parameters.
        weights_measured: The number of measured elements of parameters with two or more dimensions.
        weights_total: The number of elements of all parameters with two or more dimensions.
        layers_measured: The number of measured weight layers.
        layers_total: The number of weight layers in the model.
        left_out: The names of layers and parameters that were not measured, by reason.
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
        """The fraction of all elements that was measured; 1 if there are none."""
        return self.measured / self.total if self.total else 1.0

    @property
    def weights_share(self) -> float:
        """The fraction of the elements of weights that was measured; 1 if there are none."""
        return self.weights_measured / self.weights_total if self.weights_total else 1.0

    def __str__(self) -> str:
        return _sentence([self])

    def as_record(self) -> dict[str, Any]:
        """The coverage as plain values for a record, with both fractions."""
        return asdict(self) | {"share": self.share, "weights_share": self.weights_share}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The coverage from the values of `as_record`."""
        return cls(**{item.name: record[item.name] for item in fields(cls)})

    @classmethod
    def together(cls, parts: Mapping[str, Coverage]) -> Coverage:
        """The coverage of several networks, with their names before those of layers unless there is only one network.

        Args:
            parts: The coverage of at least one network, by name.
        """
        if len(parts) == 1:
            return next(iter(parts.values()))
        sums = {item.name: sum(getattr(part, item.name) for part in parts.values()) for item in fields(cls)[:-1]}
        left_out: dict[str, list[str]] = {}
        for network, part in parts.items():
            for reason, names in part.left_out.items():
                left_out.setdefault(reason, []).extend(f"{network}: {name}" for name in names)
        return cls(**sums, left_out=left_out)


def coverage_lines(parts: Mapping[str, Coverage], networks: int, verb: str = "measured") -> list[str]:
    """One sentence for networks with the same reasons and nearly the same fraction, without names if it holds for all.

    Args:
        parts: The coverage of networks, by name.
        networks: The number of networks, including those of unknown coverage.
        verb: The beginning of each sentence.
    """
    groups: list[dict[str, Coverage]] = []
    for network, part in parts.items():
        group = next((group for group in groups if _alike([*group.values(), part])), None)
        if group is None:
            groups.append({network: part})
        else:
            group[network] = part
    if len(groups) == 1 and len(parts) == networks:
        return [_sentence([*parts.values()], verb)]
    return [f"{listed([*group])}: {_sentence([*group.values()], verb)}" for group in groups]


def _alike(parts: Sequence[Coverage]) -> bool:
    shares = [part.share for part in parts]
    return len({tuple(part.left_out) for part in parts}) == 1 and max(shares) - min(shares) <= _ALIKE


def _sentence(parts: Sequence[Coverage], verb: str = "measured") -> str:
    """The coverage of similar networks; numbers of layers and parameters are given if they are the same for all."""
    counts = {(part.layers_measured, part.layers_total, part.total) for part in parts}
    shares = [part.share for part in parts]
    share = " to ".join(dict.fromkeys(coverage_text(100 * bound) for bound in (min(shares), max(shares))))
    if len(counts) > 1:
        text = f"{verb} {share} % of the parameters" if min(shares) < 1 else f"{verb} all weight layers and parameters"
    else:
        ((layers, of, total),) = counts
        text = f"{verb} {layers:,} of {counted(of, 'weight layer')}, {share} % of {_count(total)} parameters"
    lost = [f"{_names([part.left_out[reason] for part in parts])} ({reason})" for reason in parts[0].left_out]
    return f"{text}; not measured: {', '.join(lost)}" if lost else text


def coverage_text(percent: float) -> str:
    """A fraction in percent, which is 100 only if nothing is missing."""
    return "100" if percent >= 100 else f"{math.floor(10 * percent) / 10:.1f}"


def _count(number: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,}"


def _names(lists: Sequence[Sequence[str]]) -> str:
    """The first names common to all lists, and the number of names if it is the same."""
    common = [name for name in lists[0] if all(name in names for names in lists[1:])]
    shown, counts = common[:3], {*map(len, lists)}
    if counts == {len(shown)}:
        return ", ".join(shown)
    return ", ".join([*shown, f"… {counts.pop()} in all" if len(counts) == 1 else "…"])
