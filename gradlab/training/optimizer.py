"""The optimizer of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradlab.training.recipe import Recipe


def make_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Return the optimizer that a recipe asks for, over all parameters of a model.

    With `decayed` at `matrices`, parameters of fewer than two dimensions are a group of their own, without decay.

    Args:
        recipe: The training recipe.
        model: The network to train.
    """
    parameters = list(model.parameters())
    groups: list[Any] = parameters
    if recipe.decayed == "matrices":
        matrices, others = ([p for p in parameters if (p.ndim >= 2) is wanted] for wanted in (True, False))
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    options: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov, **options)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, betas=(recipe.beta1, recipe.beta2), **options)


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer, such as momentum, and keep the optimizer's own options, such as weight decay.

    Args:
        optimizer: The optimizer that goes on.
        state: The `state_dict()` of an optimizer of its kind.
    """
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)
