"""Values as a line of blocks of text: of layers, on a log scale, and of records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def strip(values: Sequence[float]) -> str:
    """One block for each value, with its logarithm as height; a cross where it is 0, negative or not finite.

    Args:
        values: Any number of values.
    """
    logs = [math.log(value) if 0 < value < math.inf else None for value in values]
    known = [log for log in logs if log is not None]
    if not known:
        return "×" * len(values)
    low, span = min(known), max(known) - min(known) or 1.0
    return "".join("×" if log is None else BLOCKS[round((len(BLOCKS) - 1) * (log - low) / span)] for log in logs)


def ends(values: Mapping[str, float]) -> str:
    """The lowest and the highest value by name, of those that are above 0 and finite, and how many others there are.

    Args:
        values: Values by layer.
    """
    sizes = {layer: value for layer, value in values.items() if 0 < value < math.inf}
    counts = {
        "exactly 0": sum(value == 0 for value in values.values()),
        "not finite": sum(not math.isfinite(value) for value in values.values()),
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    if sizes:
        low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        said.insert(0, f"lowest {sizes[low]:.3g} in {low}, highest {sizes[high]:.3g} in {high}")
    return "; ".join(said)


class History:
    """The largest values of a series in a bounded number of intervals of equal length, so that a spike stays.

    Args:
        room: The largest number of intervals, even: when there are more, two become one.
    """

    def __init__(self, room: int = 120) -> None:
        self.room = room
        self.values: list[float] = []
        self._count = 0
        self._span = 1

    def add(self, value: float) -> None:
        """Append a value; what is not a number counts as larger than any."""
        value = math.inf if math.isnan(value) else value
        if self._count == 0:
            self.values.append(value)
        else:
            self.values[-1] = max(self.values[-1], value)
        self._count = (self._count + 1) % self._span
        if len(self.values) == self.room and self._count == 0:
            self.values = [max(pair) for pair in zip(self.values[::2], self.values[1::2], strict=True)]
            self._span *= 2
