"""All situations, by kind."""

from __future__ import annotations

from conformance.situation import Situation
from conformance.situations import (
    hooks,
    layers,
    odd,
    outputs,
    randomness,
    recurrent,
    running,
    scale,
    shapes,
    steps,
    trainers,
    weights,
)

MODULES = (weights, layers, shapes, outputs, recurrent, hooks, steps, trainers, running, scale, randomness, odd)
SITUATIONS: list[Situation] = [situation for module in MODULES for situation in module.SITUATIONS]
