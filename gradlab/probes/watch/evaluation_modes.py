"""Modules that are trained in evaluation mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from gradlab.probes.watch.record import ids_of
from gradlab.results.grouping import counted, some


class EvaluationModes:
    """Notices batch normalization and dropout in evaluation mode at the steps of a training.

    Some libraries load models in this mode. Modules of which nothing is trained are in it on purpose, as are teachers
    that no optimizer steps.

    Args:
        model: What is trained.
        optimizers: What trains it.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = optimizers
        modules = dict(model.named_modules())
        self._modules = {
            name: (module, _with_parameters(name, modules)) for name, module in modules.items() if _has_modes(module)
        }
        self._seen: Counter[str] = Counter()
        self._step = -1

    def look(self, step: int) -> None:
        """Look at all modules, once a step, which several optimizers may make."""
        if step == self._step:
            return
        self._step = step
        stepped = set[int]().union(*map(ids_of, self.optimizers))
        for name, (module, owner) in self._modules.items():
            if not module.training and any(p.requires_grad and id(p) in stepped for p in owner.parameters()):
                self._seen[name] += 1

    def notes(self) -> list[str]:
        """Name the modules, those seen most often first, with the number of steps."""
        names: dict[int, list[str]] = {}
        for name, count in self._seen.items():
            names.setdefault(count, []).append(name)
        return [
            f"{some(names[count])}: in evaluation mode at {counted(count, 'recorded step')}, where batch normalization "
            "takes running statistics and dropout drops nothing: call model.train() unless that is meant"
            for count in sorted(names, reverse=True)
        ]


def _has_modes(module: nn.Module) -> bool:
    """Return whether the mode of a module of torch makes a difference."""
    if isinstance(module, _NormBase):
        return module.running_mean is not None
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase):
        # Dropout lies between layers.
        return module.dropout > 0 and module.num_layers > 1
    return isinstance(module, nn.MultiheadAttention) and module.dropout > 0


def _with_parameters(name: str, modules: dict[str, nn.Module]) -> nn.Module:
    """Return a module, or the nearest one around it that has parameters."""
    while name and next(modules[name].parameters(), None) is None:
        name = name.rpartition(".")[0]
    return modules[name]
