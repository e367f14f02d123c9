"""The columns common to all gradients frames."""

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
"""The columns in order; values that were not measured are missing."""

INTEGERS = ("seed", "index", "numel", "response_numel", "step", "call")
"""The columns of integers."""
