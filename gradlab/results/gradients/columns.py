"""The columns common to all gradients frames."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Row(TypedDict):
    """The columns of a saved frame; see `GradientsResult`."""

    network: str
    seed: int | None
    layer: str
    index: int | None
    kind: str
    numel: int | None
    weight_norm: float | None
    grad_norm: float | None
    grad_rms: float | None
    relative: float | None
    response_grad_rms: float | None
    response_grad_norm: float | None
    response_numel: int | None
    step: int
    call: int
    block: bool
    non_finite: bool
    absent: str | None
    shortcut: bool
    examples: NotRequired[float | None]
    example_norm: NotRequired[float | None]
    variance: NotRequired[float | None]
    gradient_square: NotRequired[float | None]
    diversity: NotRequired[float | None]
    mean_cosine: NotRequired[float | None]
    noise_scale: NotRequired[float | None]
    batches: NotRequired[int | None]
    dtype: NotRequired[str | None]
    float32_error: NotRequired[float | None]
    theory: NotRequired[float | None]


class ExampleRow(TypedDict):
    """The columns of the saved examples."""

    network: str
    seed: int | None
    example: int
    loss: float | None
    layer: str
    norm: float | None


COLUMNS = [*Row.__annotations__][: [*Row.__annotations__].index("shortcut") + 1]
"""The columns in order; values that were not measured are missing."""

INTEGERS = ("seed", "index", "numel", "response_numel", "step", "call")
"""The columns of integers."""
