"""Networks of different blocks with equal numbers of parameters or multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradlab.errors import UsageError
from gradlab.experiments.compare.request import Match
from gradlab.models import Cost, named_cost, parse_name

FORMS = {
    "resnet": "resnet{depth}-basic-width={size}",
    "preact": "resnet{depth}-basic-preact-width={size}",
    "plain": "plain{depth}-width={size}",
    "highway": "highway{depth}-width={size}",
    "densenet": "densenet{depth}-k{size}",
    "vovnet": "vovnet{depth}-width={size}",
}
"""The names of networks of a block: their depth, and the size of their layers, in which their counts increase."""

REFERENCE_WIDTH = 16
"""The width of the reference if it is a network of He et al., whose depth alone is asked for."""

LEAST_DEPTH = 0.3
"""The smallest depth that is tried, as a fraction of the reference's."""

_LARGEST = 4096


@dataclass(frozen=True)
class Matched:
    """A network of one block, and what it costs.

    Attributes:
        block: The block, a key of `FORMS`.
        name: The canonical name of the network.
        cost: Its layers, parameters and multiply-adds.
    """

    block: str
    name: str
    cost: Cost


def matched(blocks: Sequence[str], depth: int, match: Match, tolerance: float) -> list[Matched]:
    """The networks of several blocks that have as many parameters or multiply-adds as the first.

    For each block, the size of the layers is chosen for every depth near that of the reference. Of the networks within
    the tolerance it is one with the depth nearest to the reference's, and of those the one with the nearest count.

    Args:
        blocks: The blocks, of which the first is the reference, at its usual width; each counts once.
        depth: The depth of the reference.
        match: The equal quantity.
        tolerance: The largest relative difference of a count from the reference's.

    Raises:
        UsageError: If the reference has no such depth, or no network of a block has a depth near it or is within the
            tolerance.
    """
    first, *others = dict.fromkeys(blocks)
    reference = _reference(first, depth)
    goal = _count(reference.cost, match)
    found = [reference]
    for block in others:
        candidates = [_of_size(block, near, goal, match) for near in _depths(block, depth)]
        errors = {one: abs(_count(one.cost, match) / goal - 1) for one in candidates}
        inside = [one for one in candidates if errors[one] <= tolerance]
        if not candidates:
            least, most = _tried(depth)
            raise UsageError(
                f"there is no {block} network of {least} to {most} layers to compare with {reference.name}: leave "
                f"{block} out (--blocks), or give another depth (--depths)"
            )
        if not inside:
            nearest = min(candidates, key=errors.__getitem__)
            raise UsageError(
                f"no {block} network has as many {match} as {reference.name} within {100 * tolerance:.3g}%: the "
                f"nearest is {nearest.name}, {100 * errors[nearest]:.3g}% off; give a larger --tolerance"
            )
        found.append(min(inside, key=lambda one: (abs(one.cost.layers - reference.cost.layers), errors[one])))
    return found


def _reference(block: str, depth: int) -> Matched:
    """The network of the first block at its usual size, that of its paper; VoVNet has none for CIFAR."""
    sizes = {"highway": 32, "densenet": 12, "vovnet": 64}
    return _named(block, depth, sizes.get(block, REFERENCE_WIDTH))


def _depths(block: str, depth: int) -> Iterator[int]:
    """The depths of a block's networks from a fraction of the reference's depth to a little above it."""
    least, most = _tried(depth)
    for near in range(least, most + 1):
        try:
            parse_name(FORMS[block].format(depth=near, size=REFERENCE_WIDTH))
        except UsageError:
            continue
        yield near


def _tried(depth: int) -> tuple[int, int]:
    """The smallest and the largest depth that are tried for a depth of the reference."""
    return max(2, int(LEAST_DEPTH * depth)), int(1.1 * depth) + 1


def _of_size(block: str, depth: int, goal: int, match: Match) -> Matched:
    """The network of this depth whose count is nearest to the goal, found by bisection."""
    low, high = 4, 8
    while _count(_named(block, depth, high).cost, match) < goal and high < _LARGEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _count(_named(block, depth, middle).cost, match) < goal else (low, middle)
    ends = (_named(block, depth, low), _named(block, depth, high))
    return min(ends, key=lambda one: abs(_count(one.cost, match) - goal))


def _named(block: str, depth: int, size: int) -> Matched:
    network = parse_name(FORMS[block].format(depth=depth, size=size))
    return Matched(block, network.name, named_cost(network))


def _count(cost: Cost, match: Match) -> int:
    return cost.parameters if match == "parameters" else cost.multiply_adds
