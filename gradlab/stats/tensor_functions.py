"""Functions of the C library that Python calls with tensors.

Where its code is not in the caches, ctypes takes about 20 µs a call, and every property of a tensor that is looked at
one or more. A function that Python calls directly, and that finds what it needs in the tensor itself, takes 7.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

_MAJOR = 1
"""The version of DLPack that `_Exchange` follows."""

_ONE_ARGUMENT = 8
"""METH_O of Python's C interface."""

_pointer, _object, _name = ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p


class _Exchange(ctypes.Structure):
    """`DLPackExchangeAPI` of dlpack.h, by which recent versions of torch describe tensors to C."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", _pointer),
        ("allocate", _pointer),
        ("managed_from_object", _pointer),
        ("object_from_managed", _pointer),
        ("view_of_object", _pointer),
        ("stream", _pointer),
    )


class _Method(ctypes.Structure):
    """`PyMethodDef` of Python's C interface."""

    _fields_ = (("name", _name), ("function", _pointer), ("flags", ctypes.c_int), ("documentation", _name))


class Address(int):
    """The address of something in a block of memory, which it keeps alive."""

    block: Any


@functools.cache
def adder_maker(library: ctypes.CDLL) -> Callable[[Address], Callable[[Tensor], bool]] | None:
    """Return a function that makes functions, or None if this version of torch or Python does not allow for them.

    Each adds tensors to the row of moments at one address. It returns False for what is not dense float32 in the CPU's
    memory. Subclasses of Tensor and the negative bit are unknown to it, so that such tensors must be kept away.

    Args:
        library: The C library.
    """
    try:
        open_capsule = ctypes.PYFUNCTYPE(_pointer, _object, _name)(("PyCapsule_GetPointer", ctypes.pythonapi))
        address = open_capsule(Tensor.__dlpack_c_exchange_api__, b"dlpack_exchange_api")  # type: ignore[attr-defined]
        make = ctypes.PYFUNCTYPE(_object, ctypes.POINTER(_Method), _object, _pointer)(
            ("PyCFunction_NewEx", ctypes.pythonapi)
        )
        used = [getattr(ctypes.pythonapi, name) for name in ("PyLong_AsVoidPtr", "PyBool_FromLong", "PyErr_Clear")]
    except (AttributeError, ValueError):
        return None
    table = _Exchange.from_address(address)
    if table.major != _MAJOR or not table.view_of_object:
        return None
    library.gradlab_bind.argtypes, library.gradlab_bind.restype = [_pointer] * 4, None
    library.gradlab_bind(table.view_of_object, *(ctypes.cast(function, _pointer) for function in used))
    # Python keeps the address of this description, which therefore lives as long as the function below.
    method = _Method(b"add", ctypes.cast(library.gradlab_take, _pointer), _ONE_ARGUMENT, None)
    return lambda row: make(method, row, None)
