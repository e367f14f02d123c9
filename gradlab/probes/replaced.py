"""Modules and parameters that a model is given while a probe is attached, which it does not see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gradlab.errors import GradlabError
from gradlab.probes.targets import LATER
from gradlab.probes.unmeasured import unmeasured_notes
from gradlab.probes.weights import Part


class Places:
    """Where a model has its modules and some of its parameters.

    Args:
        model: The root module.
        parts: The parameters.
    """

    def __init__(self, model: nn.Module, parts: Iterable[Part] = ()) -> None:
        modules = {name: m for name, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)}
        self._places: list[tuple[str, dict[str, Any], str, object]] = [
            (f"{name}.{key}".lstrip("."), module._modules, key, child)
            for name, module in modules.items()
            for key, child in module._modules.items()
        ]
        for part in parts:
            owner, _, key = part.name.rpartition(".")
            if owner in modules:
                self._places.append((part.name, modules[owner]._parameters, key, part.parameter))
        self._model = model
        self._names = {name for name, _ in model.named_parameters()}
        # No weak references: torch cannot swap a parameter that has any, as it may when a model is moved.
        self._known = {id(parameter): parameter for parameter in model.parameters()}
        self._added: dict[str, bool] = {}

    def replaced(self) -> list[str]:
        """Return the names of those in whose places there are others; what was taken away is none."""
        return [
            name for name, table, key, there in self._places if (now := table.get(key)) is not there and now is not None
        ]

    def check(self, probe: str) -> None:
        """Raise an error if there are any.

        Args:
            probe: The name of the probe.

        Raises:
            GradlabError: If a module or a parameter was replaced.
        """
        if names := self.replaced():
            raise GradlabError(
                f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}: replaced by another since {probe} was made, "
                "which does not see that one: make it after the model is wrapped, loaded or changed otherwise"
            )

    def look(self) -> None:
        """Take in the parameters that the model has been given in places where it had none, not those that moved."""
        for name, parameter in self._model.named_parameters():
            if name not in self._names and id(parameter) not in self._known:
                self._added[name] = is_lazy(parameter) or parameter.ndim > 1

    def notes(self, *, vectors: bool = True) -> list[str]:
        """Write a sentence on the parameters that were seen in such places.

        Args:
            vectors: Whether those of fewer than two dimensions count as well.
        """
        added = [name for name, is_matrix in self._added.items() if vectors or is_matrix]
        return unmeasured_notes(dict.fromkeys(added, LATER))
