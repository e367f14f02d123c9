"""The numbering of a model's parameters and of their separately measured pieces in `ExampleGradients`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gradlab.errors import UsageError
from gradlab.probes.weights import Part, WeightRow
from gradlab.stats import l2_norms


class Pieces:
    """Numbers for parameters, and for those pieces of them that are measured separately.

    Args:
        model: The root module.
        measured: All measured rows.
        rows: The rows that the result shows.

    Attributes:
        parameters: The parameters of the model, measured ones first; the number of a parameter is its index.
        leaves: What stands for each parameter in the graph, by number: the parameter, or the whole one where the
            parameter is only a part (see `Shards`).
        sharded: Whether a rank has only a part of some parameter.
        chosen: The numbers of the measured parameters.
        parts: The separately measured pieces; the number of a piece is its index.
        of: The pieces of each parameter by number, with their ranges in the flattened parameter; None for the whole.
        rows: The numbers of the pieces in each row that the result shows.
        shown: The numbers of all pieces in such rows.

    Raises:
        UsageError: If a parameter that is not frozen is sparse.
    """

    def __init__(self, model: nn.Module, measured: Iterable[WeightRow], rows: Mapping[str, WeightRow]) -> None:
        self.parts = list({part.key: part for row in (*measured, *rows.values()) for part in row.parts}.values())
        chosen = dict.fromkeys(part.parameter for part in self.parts)
        # The other parameters are followed as well, to distinguish them from data.
        self.parameters = [*dict.fromkeys([*chosen, *model.parameters()])]
        self.leaves: list[Tensor] = [*self.parameters]
        self.chosen = range(len(chosen))
        self.numbers = {parameter: number for number, parameter in enumerate(self.parameters)}
        # Taken now, since a model's parameters may be others while it runs.
        self._names = {name: self.numbers[parameter] for name, parameter in model.named_parameters()}
        if sparse := [n for n, p in enumerate(self.parameters) if p.requires_grad and p.layout != torch.strided]:
            raise UsageError(
                f"{self.names(sparse)}: a sparse parameter, whose gradient is not separated by examples: make it "
                "dense, or freeze it"
            )
        self.sharded = any(hasattr(parameter, "placements") for parameter in self.parameters)
        self.of: dict[int, list[tuple[int, slice | None]]] = {}
        for piece, part in enumerate(self.parts):
            self.of.setdefault(self.numbers[part.parameter], []).append((piece, _elements(part)))
        pieces = {part.key: piece for piece, part in enumerate(self.parts)}
        self.rows = {name: [pieces[part.key] for part in row.parts] for name, row in rows.items()}
        self.shown = {piece for wanted in self.rows.values() for piece in wanted}

    def forget_leaves(self) -> None:
        """Let every parameter stand for itself."""
        self.leaves[:] = self.parameters

    @property
    def trainable(self) -> list[int]:
        """The numbers of the pieces that require a gradient."""
        return [piece for piece, part in enumerate(self.parts) if part.parameter.requires_grad]

    def norm_of_gradients(self) -> Tensor | None:
        """The norm of all gradients that there are, of this rank's shards if they are sharded, or None."""
        there = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        own = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in there]
        return l2_norms(own).norm() if own else None

    def names(self, numbers: Iterable[int]) -> str:
        """Name parameters for a message."""
        wanted = {*numbers}
        names = [name for name, number in self._names.items() if number in wanted]
        return f"{', '.join(names[:3])}{f', … ({len(names)} parameters)' if len(names) > 3 else ''}"


def _elements(part: Part) -> slice | None:
    """Return the range of a part in the flattened parameter, or None for the whole."""
    if part.rows is None:
        return None
    width = math.prod(part.parameter.shape[1:])
    return slice(part.rows.start * width, part.rows.stop * width)
