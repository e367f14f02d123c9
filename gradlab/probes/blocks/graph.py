"""The values of a forward pass as a graph of numbers, and what two of them have in common: a block's input."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Value:
    """What a function of torch made of others; it stands for a tensor and keeps none.

    Attributes:
        parents: The numbers of the values it was made of.
        module: The module that was running, by name.
        call: Which of the calls of modules in the pass that was.
        weighted: Whether a weight was applied, or one signal to another by a product, as in attention.
        attends: Whether signals were multiplied with one another.
        is_part: Whether it is a slice, of which there may be others.
    """

    parents: tuple[int, ...] = ()
    module: str = ""
    call: int = 0
    weighted: bool = False
    attends: bool = False
    is_part: bool = False


@dataclass(frozen=True)
class Relation:
    """How the two operands of an addition come from a block's input.

    Attributes:
        origin: The number of the block's input.
        stream: Which operand carries it, 0 or 1; None where both are equally far, as parallel branches are.
        projected: Whether a weight lies between the input and the operand that carries it.
        between: For each operand the numbers of the values between the input and it, itself included, last ones first.
    """

    origin: int
    stream: int | None
    projected: bool
    between: tuple[list[int], list[int]]


class _Way(NamedTuple):
    """The ways from an operand back to a value: the least and the most weights on one, and whether one is no slice."""

    least: int = 0
    most: int = 0
    whole: bool = True


class Graph:
    """The values of one forward pass, numbered in the order in which they came to be."""

    def __init__(self) -> None:
        self._values: list[Value] = []

    def __getitem__(self, number: int) -> Value:
        return self._values[number]

    def add(self, value: Value) -> int:
        """Take in a value; its number."""
        self._values.append(value)
        return len(self._values) - 1

    def relation(self, first: int, second: int, call: int) -> Relation | None:
        """What two values, as operands of an addition, have in common; None where they make no block.

        Values are gone through from the later to the earlier ones, so that all ways from the operands to a value are
        known when its turn comes.

        Args:
            first: The number of one operand.
            second: That of the other.
            call: The call of the module that adds them.
        """
        ways: tuple[dict[int, _Way], dict[int, _Way]] = {first: _Way()}, {second: _Way()}
        waiting = [-number for number in {first, second}]
        heapq.heapify(waiting)
        met, between = {first, second}, list[int]()
        while waiting:
            number = -heapq.heappop(waiting)
            if number in ways[0] and number in ways[1]:
                found = _judge(ways[0][number], ways[1][number], alone=not waiting)
                if found is None and number in (first, second):
                    found = self._without_weight(ways, number, (first, second), between, call)
                if found is not None:
                    first_way, second_way = ([each for each in between if each in side] for side in ways)
                    return Relation(number, *found, (first_way, second_way))
                if not waiting:
                    return None
            between.append(number)
            value = self._values[number]
            for side in ways:
                if number in side:
                    _extend(side, value, side[number])
            for parent in value.parents:
                if parent not in met:
                    met.add(parent)
                    heapq.heappush(waiting, -parent)
        return None

    def _without_weight(
        self,
        ways: tuple[dict[int, _Way], dict[int, _Way]],
        origin: int,
        operands: tuple[int, int],
        between: list[int],
        call: int,
    ) -> tuple[int, bool] | None:
        """The operand that is a block's input, to which another module's function of it without weights is added.

        What the module that adds has computed itself is no branch, but part of a formula, as x + 0.04 x³ is in GELU.
        """
        stream = operands.index(origin)
        branch = ways[1 - stream]
        elsewhere = any(each in branch and self._values[each].call != call for each in between)
        return (stream, False) if elsewhere and branch[origin].most == 0 else None


def _judge(first: _Way, second: _Way, alone: bool) -> tuple[int | None, bool] | None:
    """Which operand carries a value that both come from, and whether through a weight; None where that is no block.

    Args:
        first: From the first operand to the value.
        second: From the second.
        alone: Whether all ways lead through the value.
    """
    if not (first.whole or second.whole):
        # Different slices of something: neither is a function of the other.
        return None
    stream = 0 if first[:2] <= second[:2] else 1
    near, far = (first, second) if stream == 0 else (second, first)
    if near.least == 0:
        return (stream, False) if far.least or (near.most == 0 and far.most) else None
    if not alone:
        return None
    return (stream, True) if near.most == 1 < far.most else (None, False)


def _extend(side: dict[int, _Way], value: Value, way: _Way) -> None:
    """Go one step further back, from a value to those that it was made of."""
    step = _Way(way.least + value.weighted, way.most + value.weighted, way.whole and not value.is_part)
    for parent in value.parents:
        known = side.get(parent, step)
        side[parent] = _Way(min(known.least, step.least), max(known.most, step.most), known.whole or step.whole)
