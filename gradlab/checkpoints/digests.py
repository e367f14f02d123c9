"""Digests that identify files and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def file_digest(path: str | Path) -> str:
    """Compute the sha256 of a file, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Compute the sha256 of the names, dtypes, shapes and bytes of all parameters and buffers."""
    # The extra state of a module (`_extra_state`) may be any object.
    return tensors_digest(
        {
            name: value
            for name, value in model.state_dict().items()
            if isinstance(value, Tensor) and not name.endswith("num_batches_tracked")
        }
    )


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute the sha256 of the names, dtypes, shapes and bytes of tensors, in their order."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
