"""Normal numbers of a seed, three times as fast as by torch alone where a C library can be compiled, and the same."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from gradlab.compiled import load_library

_GROUP = 16
"""The fewest numbers that torch draws by the algorithm of the library."""

_COMPARED = 2**18 + 3
"""Number of draws compared with torch's: one of ten thousand differs if a single operation is rounded otherwise."""


def draw_normal(out: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Fill a tensor as `out.normal_(0, std, generator=generator)` does, to the bit, and leave the generator as it does.

    Args:
        out: A contiguous float32 tensor on the CPU.
        std: The standard deviation.
        generator: A generator of the CPU.
    """
    plain = type(out) is Tensor and out.is_cpu and out.is_contiguous() and not out.requires_grad
    served = plain and out.dtype is torch.float32 and out.numel() >= _GROUP
    # What torch refuses it shall refuse.
    served = served and std >= 0 and generator.device.type == "cpu"
    library = _library() if served else None
    if library is None:
        return out.normal_(0.0, std, generator=generator)
    _draw(library, out, std, generator)
    return out


def _draw(library: ctypes.CDLL, out: Tensor, std: float, generator: torch.Generator) -> None:
    state = generator.get_state()
    library.gradlab_normal(state.data_ptr(), out.data_ptr(), out.numel(), std)
    generator.set_state(state)


@functools.cache
def _library() -> ctypes.CDLL | None:
    # Elsewhere torch draws by other operations.
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return None
    return load_library("gradlab.models.mlp", "normal", _draws_as_torch)


def _draws_as_torch(library: ctypes.CDLL) -> bool:
    """Declare the function, and compare its numbers and what it makes of the generator with torch's."""
    library.gradlab_normal.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_float]
    library.gradlab_normal.restype = None
    one, other = (torch.Generator().manual_seed(0) for _ in range(2))
    found = torch.empty(_COMPARED)
    _draw(library, found, 0.1, one)
    expected = torch.empty(_COMPARED).normal_(0.0, 0.1, generator=other)
    same: bool = torch.equal(found.view(torch.int32), expected.view(torch.int32))
    return same and torch.equal(one.get_state(), other.get_state())
