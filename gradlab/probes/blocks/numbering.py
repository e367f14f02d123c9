"""Numbers the additions of a pass, so that one of them is found again in another pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """An addition of two signals in a pass; the places of all passes are equal if a network runs the same functions.

    Attributes:
        module: The name of the module that adds.
        call: The number of this call of the module, among its calls that add, from 0.
        number: The number of the addition within the call, from 0.
    """

    module: str
    call: int
    number: int


class Numbering:
    """The additions of one pass in order. Additions are the functions that `operands` recognizes."""

    def __init__(self) -> None:
        self._calls: dict[str, list[int]] = {}
        self._numbers: Counter[int] = Counter()

    def next(self, module: str, call: int) -> Place:
        """Count an addition.

        Args:
            module: The name of the module that adds.
            call: A number that no other module call of the pass has.
        """
        calls = self._calls.setdefault(module, [])
        if call not in calls:
            calls.append(call)
        self._numbers[call] += 1
        return Place(module, calls.index(call), self._numbers[call] - 1)
