"""The columns that every frame of gradients has."""

from __future__ import annotations

COLUMNS = [
    "network",
    "seed",
    "layer",
    "index",
    "kind",
    "numel",
    "weight_norm",
    "grad_norm",
    "grad_rms",
    "relative",
    "response_grad_rms",
    "response_grad_norm",
    "response_numel",
    "step",
    "call",
    "block",
    "non_finite",
    "absent",
    "shortcut",
]
"""In their order; what was not measured is missing."""

INTEGERS = ("seed", "index", "numel", "response_numel", "step", "call")
"""Those that hold whole numbers."""
