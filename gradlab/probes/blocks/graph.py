"""The values of a forward pass as a graph of numbers, and the block's input from which two of them are computed."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Value:
    """The output of a torch function; it represents a tensor without keeping it.

    Attributes:
        parents: The numbers of the values from which it was computed.
        module: The name of the module that was running.
        call: The number of that module call within the pass.
        weighted: Whether a weight was applied, or one signal to another by a product, as in attention.
        attends: Whether signals were multiplied with one another.
        is_part: Whether it is a slice, of which there may be others.
        enlarged: Whether it has more positions than its parent, as by interpolation.
    """

    parents: tuple[int, ...] = ()
    module: str = ""
    call: int = 0
    weighted: bool = False
    attends: bool = False
    is_part: bool = False
    enlarged: bool = False


@dataclass(frozen=True)
class Relation:
    """The dependence of the two operands of an addition on a block's input.

    Attributes:
        origin: The number of the block's input.
        stream: The operand that carries the input, 0 or 1; None if both are equally far from it, as parallel branches.
        projected: Whether a weight lies between the input and the operand that carries it.
        between: For each operand, the numbers of the values after the input up to the operand, in reverse order.
    """

    origin: int
    stream: int | None
    projected: bool
    between: tuple[list[int], list[int]]


class _Way(NamedTuple):
    """Paths from an operand back to a value: the least and the most weights on one, and whether one has no slice."""

    least: int = 0
    most: int = 0
    whole: bool = True


class Graph:
    """The values of one forward pass, numbered in the order in which they were computed."""

    def __init__(self) -> None:
        self._values: list[Value] = []

    def __getitem__(self, number: int) -> Value:
        return self._values[number]

    def add(self, value: Value) -> int:
        """Add a value and return its number."""
        self._values.append(value)
        return len(self._values) - 1

    def follows(self, number: int, earlier: int) -> bool:
        """Return whether a value is a function of an earlier one, or that value itself."""
        waiting, met = [number], {number}
        while waiting:
            number = waiting.pop()
            if number == earlier:
                return True
            further = {parent for parent in self._values[number].parents if parent >= earlier} - met
            met |= further
            waiting += further
        return False

    def relation(self, first: int, second: int, call: int) -> Relation | None:
        """The relation of two values, as operands of an addition, to a block's input; None if they form no block.

        Values are visited from later to earlier ones, so that all paths from the operands to a value are known when it
        is visited.

        Args:
            first: The number of the first operand.
            second: The number of the second operand.
            call: The call of the module that performs the addition.
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
        """The operand that is a block's input, if the other is a function of it without weights from another module.

        Values computed by the module that performs the addition are no branch but part of a formula, such as
        x + 0.04 x³ in GELU.
        """
        stream = operands.index(origin)
        branch = ways[1 - stream]
        elsewhere = any(each in branch and self._values[each].call != call for each in between)
        return (stream, False) if elsewhere and branch[origin].most == 0 else None


def _judge(first: _Way, second: _Way, alone: bool) -> tuple[int | None, bool] | None:
    """The operand that carries a common ancestor of both, and whether through a weight; None if that is no block.

    Args:
        first: The paths from the first operand to the value.
        second: The paths from the second operand to the value.
        alone: Whether all paths lead through the value.
    """
    if not (first.whole or second.whole):
        # The operands are different slices of one tensor, and neither is a function of the other.
        return None
    stream = 0 if first[:2] <= second[:2] else 1
    near, far = (first, second) if stream == 0 else (second, first)
    if near.least == 0:
        return (stream, False) if far.least or (near.most == 0 and far.most) else None
    if not alone:
        return None
    return (stream, True) if near.most == 1 < far.most else (None, False)


def _extend(side: dict[int, _Way], value: Value, way: _Way) -> None:
    """Extend the paths by one step, from a value to its parents."""
    step = _Way(way.least + value.weighted, way.most + value.weighted, way.whole and not value.is_part)
    for parent in value.parents:
        known = side.get(parent, step)
        side[parent] = _Way(min(known.least, step.least), max(known.most, step.most), known.whole or step.whole)
