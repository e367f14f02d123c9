"""How responses and their changes scale with width and depth: Yang et al. 2022, arXiv:2203.03466, and others.

A layer's kind says which sides of its weight grow with width n: `input` (only the outputs), `hidden` (both), `output`
(only the inputs). All exponents are those of typical entries. Quantities of a layer are its `size` at initialization,
its `change` after some steps, the `update`, which is the part of that change that its own weights make, and the
`branch`, which is what a block adds to its input.
"""

from __future__ import annotations

Range = tuple[float, float]
"""The smallest and the largest exponent that is right."""

SMALLEST_GAP = 0.5
"""Exponents that theory tells apart differ by a multiple of this."""

_FLAT: Range = (0.0, 0.0)

_STANDARD = {
    "sgd": {"input": (-0.5, -0.5), "hidden": (0.5, 0.5), "output": (1.0, 1.0)},
    "adam": {"input": (0.0, 0.0), "hidden": (1.0, 1.0), "output": (1.5, 1.0)},
}
"""Of change and update, by optimizer and kind."""


def maximal_update_exponents(kind: str) -> dict[str, Range]:
    """Exponents over width in the maximal update parametrization (μP).

    Every response has entries of size 1 at any time and changes by size 1, and every layer's own weights have a part of
    that size in it. The output, and products of queries and keys, may begin as n^(−1/2): at initialization they are
    sums of independent terms that are scaled by 1/n.

    Args:
        kind: Of the layer; `signal` is what no weight makes, such as attention's logits.

    Returns:
        The ranges of exponents by quantity.
    """
    size = (-0.5, 0.0) if kind in ("output", "signal") else _FLAT
    return {"size": size, "change": size if kind == "signal" else _FLAT, "update": _FLAT}


def standard_exponents(kind: str, optimizer: str) -> dict[str, Range]:
    """Exponents over width in the standard parametrization: weights of variance 1/fan-in, one learning rate for all.

    Of the first step, and where the learning rate is small enough for changes to be linear in it. The derivative by a
    hidden response is of size n^(−1/2), as the output's weights are. By SGD a hidden response changes by it times the
    square of its input's norm, n; by Adam, whose updates have entries of size 1 and signs that agree with their input,
    by n. The output changes by what its own weights add, n, and by the sum over n of its weights times the hidden
    change, signs agreeing: n^(−1/2)·n^(1/2)·n and n^(−1/2)·n·n.

    Args:
        kind: Of the layer.
        optimizer: `sgd` or `adam`.

    Returns:
        The ranges of exponents by quantity; none where nothing is known of the kind.
    """
    if kind not in _STANDARD[optimizer]:
        return {}
    change, update = _STANDARD[optimizer][kind]
    return {"size": _FLAT, "change": (change, change), "update": (update, update)}


def depth_exponents(repeated: bool, branch: float) -> dict[str, Range]:
    """Exponents over depth L of residual networks that have a limit of infinite depth.

    Streams are of size 1 and change by size 1. A branch is of size L^(−α). The own update of a layer in a branch is of
    size L^(α−1), so that the L of them, times L^(−α) and in one direction, add up to size 1. Depth-μP has α = 1/2, the
    one that is optimal for blocks of one layer (Yang et al. 2023, arXiv:2310.02244); CompleteP has α = 1 (Dey et al.
    2025, arXiv:2505.01618).

    Args:
        repeated: Whether the layer is one of those whose number grows with depth.
        branch: α.

    Returns:
        The ranges of exponents by quantity.
    """
    update = (branch - 1, branch - 1) if repeated else _FLAT
    return {"size": _FLAT, "change": _FLAT, "update": update, "branch": (-branch, -branch)}
