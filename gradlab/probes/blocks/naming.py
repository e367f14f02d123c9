"""What blocks and branches are called, and what repeats where there are none."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from torch import nn

from gradlab.probes.selection import find_blocks
from gradlab.probes.weights import owns_weight


def like_parts(model: nn.Module) -> set[str]:
    """The names of the elements of every `nn.Sequential` and `nn.ModuleList` whose elements are of one class."""
    return {
        f"{name}.{child}".removeprefix(".")
        for name, row in model.named_modules()
        if isinstance(row, nn.Sequential | nn.ModuleList) and len({type(part) for part in row.children()}) == 1
        for child, _ in row.named_children()
    }


def repeated_parts(model: nn.Module) -> dict[str, nn.Module]:
    """What repeats in a network without residual branches, by name.

    The blocks of `find_blocks`; where there are not two, the elements with a weight of every row in which those are at
    least two and of one class.
    """
    if len(blocks := find_blocks(model)) > 1:
        return blocks
    found: dict[str, nn.Module] = {}
    for name, row in model.named_modules():
        if isinstance(row, nn.Sequential | nn.ModuleList):
            parts = {child: part for child, part in row.named_children() if any(map(owns_weight, part.modules()))}
            if len(parts) > 1 and len({type(part) for part in parts.values()}) == 1:
                found |= {f"{name}.{child}".removeprefix("."): part for child, part in parts.items()}
    return {name: part for name, part in found.items() if not any(other.startswith(f"{name}.") for other in found)}


def common_module(names: Iterable[str]) -> str:
    """The module in which all of some modules lie: what their names begin with."""
    columns = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def element_of(name: str, elements: set[str]) -> str | None:
    """The innermost of some elements in which a module lies, itself included; None where it lies in none."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in elements), None)


def block_name(running: str, branch: str, elements: set[str]) -> str:
    """What a block is called.

    Args:
        running: The module that adds.
        branch: The module in which the weights of the branch lie.
        elements: Of rows of like parts.

    Returns:
        The innermost element in which the addition is made; where it is made in none, that in which its branch lies.
        Without either it is the module that adds, and the branch's where the model itself adds.
    """
    return element_of(running, elements) or element_of(branch, elements) or running or branch


def branch_names(branches: Sequence[tuple[str, bool]]) -> list[str]:
    """What the branches of one block are called.

    Args:
        branches: For each one the module in which it lies, within the block, and whether it attends.

    Returns:
        Nothing where there is one branch; `attn` and `mlp` where there is one of each; else the modules' own names,
        or where these are alike those with the modules around them.
    """
    if len(branches) == 1:
        return [""]
    if [attends for _, attends in branches] in ([True, False], [False, True]):
        return ["attn" if attends else "mlp" for _, attends in branches]
    last = [name.rpartition(".")[2] for name, _ in branches]
    return last if len(set(last)) == len(last) else [name for name, _ in branches]
