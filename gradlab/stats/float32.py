"""Float32 as it is named, on devices that compute with fewer digits in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_NAME: str = "allow_tf32"
_FULL: Any = False
_PLACES: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
    _NAME, _FULL = "fp32_precision", "ieee"
    _PLACES = (
        torch.backends.cudnn.conv,  # type: ignore[attr-defined]
        torch.backends.cudnn.rnn,
        torch.backends.cuda.matmul,
    )


@contextmanager
def full_float32() -> Iterator[None]:
    """A context, or a decorator, in which convolutions and products of float32 have all its 24 bits on CUDA.

    By default torch computes convolutions in TF32, which rounds their factors to 11 bits, a relative error of up to
    5e-4 each; the settings are the user's again afterwards.
    """
    before = [getattr(place, _NAME) for place in _PLACES]
    try:
        for place in _PLACES:
            setattr(place, _NAME, _FULL)
        yield
    finally:
        for place, value in zip(_PLACES, before, strict=True):
            setattr(place, _NAME, value)
