"""What is done to a network: which modules are deleted, and which blocks are swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Lesion:
    """One change of a network.

    Attributes:
        study: `intact`, `delete`, `several` or `reorder`.
        count: The number of modules deleted, or of pairs of blocks swapped.
        sample: The number of the random choice, from 0.
        deleted: The indices of the deleted modules.
        order: The block that runs at each place, by index; empty if the order is unchanged.
    """

    study: str
    count: int = 0
    sample: int = 0
    deleted: tuple[int, ...] = ()
    order: tuple[int, ...] = ()


def deletions(modules: int, several: Sequence[int], samples: int, seed: int) -> list[Lesion]:
    """Plan the deletion of several random modules at once.

    Args:
        modules: The number of modules that can be deleted.
        several: The numbers of modules to delete, each counted once; those above the number of modules are left out.
        samples: The number of random choices for each number.
        seed: The seed of the choices.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        Lesion("several", count, sample, tuple(torch.randperm(modules, generator=generator)[:count].sort()[0].tolist()))
        for count in dict.fromkeys(several)
        if count <= modules
        for sample in range(samples)
    ]


def orders(alike: Sequence[Sequence[int]], swaps: Sequence[int], samples: int, seed: int) -> list[Lesion]:
    """Plan swaps of random pairs of blocks, as the paper does: the more pairs, the further from the original order.

    Args:
        alike: The indices of all blocks, in groups of those that may take one another's places.
        swaps: The numbers of pairs to swap one after another, each counted once.
        samples: The number of random choices for each number.
        seed: The seed of the choices.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = [group for group in alike if len(group) > 1]
    return [
        Lesion("reorder", count, sample, order=_swapped(sum(map(len, alike)), groups, count, generator))
        for count in dict.fromkeys(swaps)
        for sample in range(samples if groups else 0)
    ]


def _swapped(blocks: int, groups: Sequence[Sequence[int]], count: int, generator: torch.Generator) -> tuple[int, ...]:
    """The order after swapping random pairs one after another, each pair from one group."""
    order = list(range(blocks))
    pairs = torch.tensor([len(group) * (len(group) - 1) / 2 for group in groups])
    for _ in range(count):
        group = groups[int(torch.multinomial(pairs, 1, generator=generator))]
        one, other = torch.randperm(len(group), generator=generator)[:2].tolist()
        first, second = group[one], group[other]
        order[first], order[second] = order[second], order[first]
    return tuple(order)
