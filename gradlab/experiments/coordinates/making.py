"""Networks by width and depth, with their optimizers, from a function, its name, or a name with placeholders."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradlab.errors import UsageError
from gradlab.experiments.coordinates.request import MakeModel
from gradlab.models.external import called, import_function, is_function
from gradlab.networks import build

Made = tuple[nn.Module, Optimizer | None]

_GAPS = re.compile(r"\{(width|depth)\}")


def maker(make_model: MakeModel) -> Callable[[dict[str, int], int], Made]:
    """A function of the sizes by axis and of a seed that makes a network.

    Args:
        make_model: A function, the name of a function, or the name of a network with placeholders.

    Raises:
        UsageError: If the name has no placeholders and is not that of a function.
    """
    if isinstance(make_model, str) and _GAPS.search(make_model):
        template = make_model
        return lambda sizes, seed: (build(_filled(template, sizes), "init", seed=seed), None)
    if isinstance(make_model, str) and not is_function(make_model):
        raise UsageError(
            f"{make_model!r} has no width or depth: write a name with a placeholder, such as 'resnet{{depth}}', or "
            "package.module:function with arguments width or depth"
        )
    function = import_function(make_model) if isinstance(make_model, str) else make_model
    return lambda sizes, seed: _called(function, name_of(make_model), sizes, seed)


def name_of(make_model: MakeModel) -> str:
    """The name of what makes networks, for results and errors."""
    return make_model if isinstance(make_model, str) else getattr(make_model, "__name__", type(make_model).__name__)


def _filled(template: str, sizes: dict[str, int]) -> str:
    gaps = {gap: str(sizes.get(gap, "")) for gap in ("width", "depth")}
    missing = [gap for gap in _GAPS.findall(template) if not gaps[gap]]
    if missing:
        raise UsageError(f"{template!r} has a placeholder for {missing[0]}: give {missing[0]}s")
    return _GAPS.sub(lambda gap: gaps[gap[1]], template)


def _called(function: Callable[..., Any], name: str, sizes: dict[str, int], seed: int) -> Made:
    """The network that a function makes for the sizes and a seed, without changing the caller's random state."""
    names = inspect.signature(function).parameters
    by_name = {axis: size for axis, size in sizes.items() if axis in names}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        # A single size may be an argument of any name.
        known = len(by_name) == len(sizes)
        made = called(function, name, **by_name) if known else called(function, name, *sizes.values())
    model, optimizer = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module) or not isinstance(optimizer, Optimizer | None):
        raise UsageError("make_model returns a torch.nn.Module, alone or with its optimizer")
    return model, optimizer
