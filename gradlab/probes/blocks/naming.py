"""Names of blocks and branches, and the repeated parts of networks without branches."""

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
    """The repeated parts of a network without residual branches, by name.

    They are the blocks of `find_blocks`; if there are fewer than two, they are the elements with weights of every
    `nn.Sequential` or `nn.ModuleList` in which at least two have weights and these are of one class.
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
    """The innermost module that contains all of the named modules, by the common beginning of their names."""
    columns = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def element_of(name: str, elements: set[str]) -> str | None:
    """The innermost element that contains a module or is that module; None if there is none."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in elements), None)


def block_name(running: str, branch: str, elements: set[str]) -> str:
    """The name of a block.

    Args:
        running: The name of the module that performs the addition.
        branch: The name of the module that contains the weights of the branch.
        elements: The names of the elements of containers of similar parts.

    Returns:
        The innermost element in which the addition is performed, or else the innermost element that contains the
        branch. If there is neither, it is the module that performs the addition, or the branch's module if the addition
        is performed by the model itself.
    """
    return element_of(running, elements) or element_of(branch, elements) or running or branch


def branch_names(branches: Sequence[tuple[str, str, bool]]) -> list[str]:
    """The names of the branches of one block.

    Args:
        branches: For each branch, the names of its module and of the module that adds it, within the block, and whether
            it contains attention.

    Returns:
        An empty name for a single branch; `attn` and `mlp` if there is one of each; otherwise the names of the modules,
        which include the enclosing modules if they would be equal without them, and the place of the addition if they
        would be equal even then.
    """
    if len(branches) == 1:
        return [""]
    if [attends for *_, attends in branches] in ([True, False], [False, True]):
        return ["attn" if attends else "mlp" for *_, attends in branches]
    whole = [name for name, *_ in branches]
    last = [name.rpartition(".")[2] for name in whole]
    if len(set(last)) == len(last):
        return last
    return [name if whole.count(name) == 1 or not place else f"{name} in {place}" for name, place, _ in branches]
