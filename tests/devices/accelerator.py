"""An accelerator without hardware: a device of its own, real numbers, and a record of every wait for it.

Inside `accelerator()`, tensors and modules can be moved to the device `simulated`, torch's private device with a
backend in Python. Arithmetic runs on the CPU, with two differences from it:

- What makes the host wait for a CUDA device (`.item()`, `nonzero`, an index of booleans, a copy that is not
  asynchronous, …) is noted, with the line of Python that asks for it.
- An operation on tensors of both devices raises `MixedDevicesError`, unless the one on the CPU is a number, as on CUDA.

So a loop can be checked for waits, and its numbers compared with those of the CPU, on any machine. What the device does
not show: a view does not share its address with its base.
"""

from __future__ import annotations

import functools
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "simulated"
SUPPORTED = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
"""Whether this torch has backends in Python."""

EVENT = "event"
"""What a wait for an earlier moment of the device is called."""

_PACKAGE = str(Path(__file__).parents[2] / "gradlab")
_TORCH = str(Path(torch.__file__).parent)
aten = torch.ops.aten
_WAITING = {
    *(aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.allclose, aten.nonzero),
    *(aten.masked_select, aten._unique, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount),
    *(aten._linalg_eigh, aten._linalg_svd, aten.linalg_eig, aten.linalg_lstsq, aten._linalg_check_errors),
}
_LOWERED = ("conv2d", "linear", "matmul", "mm", "addmm", "bmm")
_MOVING = {aten._to_copy, aten.to}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Wait(NamedTuple):
    """A moment at which the host waits for the device.

    Attributes:
        what: The operation.
        where: The file and line that asks for it; of gradlab's own files, if any is on the stack.
        line: The line itself.
        own: Whether it is a line of gradlab.
    """

    what: str
    where: str
    line: str
    own: bool


class MixedDevicesError(RuntimeError):
    """An operation on tensors of two devices."""


waits: list[Wait] = []
"""All waits since the last call of `accelerator`."""


@contextmanager
def accelerator() -> Iterator[list[Wait]]:
    """Make the device available, and yield the record of waits."""
    backend = _registered()
    waits.clear()
    backend.present = True
    try:
        stream = mock.patch.object(torch.accelerator, "current_stream", _Stream)
        # Parameters stay the objects that they are, as on devices whose tensors are torch's own.
        torch.__future__.set_swap_module_params_on_conversion(True)
        with _Factories(), _Operations(), mock.patch.object(torch, "Event", _Event), stream:
            yield waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
        backend.present = False


def own_waits() -> list[str]:
    """The waits that gradlab has asked for, each as a line to read."""
    return [f"{wait.where}: {wait.line} ({wait.what})" for wait in waits if wait.own]


@functools.cache
def _registered() -> Any:
    """Register the backend, once for the process; other tests of the process see no accelerator."""

    class Backend(torch._C._acc.PrivateUse1Hooks):
        present = False

        def is_available(self) -> bool:
            return self.present

        def is_built(self) -> bool:
            return True

        def is_initialized(self) -> bool:
            return True

        def has_primary_context(self, device: int) -> bool:
            return True

        def current_device(self) -> int:
            return 0

        def device_count(self) -> int:
            return int(self.present)

        def _is_in_bad_fork(self) -> bool:
            return False

        def manual_seed_all(self, seed: int) -> None:
            """Numbers are drawn on the CPU."""

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

        def get_rng_state(self, device: object = None) -> Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, state: Tensor, device: object = None) -> None:
            torch.set_rng_state(state)

    backend = Backend()
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=backend, hook=backend)
    _register_autocast(backend)
    return backend


def _register_autocast(backend: Any) -> None:
    """Let convolutions and products run in lower precision under autocast, as on other devices."""
    key = "AutocastPrivateUse1"
    everything, operations = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(torch.library.fallthrough_kernel, key)
    # A library lives as long as it is kept.
    backend.libraries = everything, operations
    for name in _LOWERED:
        operations.impl(name, functools.partial(_lowered, getattr(aten, name).default), key)


def _lowered(func: Any, *args: Any, **kwargs: Any) -> Any:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(torch.get_autocast_dtype(NAME)) if tensor.is_floating_point() else tensor

    lower = pytree.tree_map_only(Tensor, cast, (args, kwargs))
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return func(*lower[0], **lower[1])


class DeviceTensor(Tensor):
    """A tensor on the device, whose values a tensor on the CPU holds."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.size(), device=torch.device(NAME, 0), **layout)
        made.held = held
        return made

    def __repr__(self, **_: object) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    # The C++ of these two reads memory or makes tensors without an operation that could be seen.
    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **_: object) -> Tensor:
        return _uploaded(data, dtype or self.dtype)


class _Event:
    """A moment in the device's work, which the host can wait for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self, stream: _Stream) -> None:
        """Record on a stream, without which torch takes that of the current device whatever the event's own is."""
        assert stream.device == self.device, f"an event of {self.device} is recorded on {stream.device}"

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        _note(EVENT)


class _Stream:
    """The one stream of the device."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device(NAME, 0)

    def is_capturing(self) -> bool:
        return False


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchFunctionMode):
    """Sees what makes a tensor out of Python's numbers, of which C++ tells no dispatch mode."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and not isinstance(args[0], DeviceTensor):
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == NAME:
                return _uploaded(args[0], kwargs.get("dtype"))
        return func(*args, **kwargs)


def _uploaded(data: Any, dtype: torch.dtype | None) -> DeviceTensor:
    _note("copy to the device")
    return DeviceTensor(torch.as_tensor(data, dtype=dtype).clone())


def _note(what: object) -> None:
    frame, first = sys._getframe(1), None
    while frame is not None:
        name = frame.f_code.co_filename
        outside = name != __file__ and not name.startswith((_TORCH, "<frozen"))
        # A mode that passes operations on is no line that asks for them.
        if outside and frame.f_code.co_name != "__torch_function__":
            first = first or frame
            if name.startswith(_PACKAGE):
                break
        frame = frame.f_back
    found = frame or first or sys._getframe(1)
    name, line = found.f_code.co_filename, found.f_lineno
    where = f"{name.removeprefix(_PACKAGE + '/')}:{line}"
    waits.append(Wait(str(what), where, linecache.getline(name, line).strip(), frame is not None))


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the tensors that hold the values, and note what it waits for."""
    packet = func.overloadpacket
    given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = [tensor for tensor in given if isinstance(tensor, DeviceTensor)]
    target = _target(packet, args, kwargs)
    makes = target is not None and target.type == NAME
    if packet in _MOVING and target is not None:
        # Towards the host, the copy is as asynchronous: torch takes memory for it that the device can write to.
        if isinstance(args[0], DeviceTensor) != makes and not _asynchronous(packet, args, kwargs):
            _note(func)
    elif packet is aten.copy_:
        if isinstance(args[0], DeviceTensor) != isinstance(args[1], DeviceTensor):
            blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if blocking or isinstance(args[1], DeviceTensor):
                _note(func)
    elif there:
        _check_together(func, packet, args, [tensor for tensor in given if not isinstance(tensor, DeviceTensor)])
        if _waits(packet, args, kwargs):
            _note(func)
    if makes and isinstance(kwargs.get("generator"), torch.Generator):
        raise MixedDevicesError(f"{func}: a generator of the CPU draws no numbers on the device")
    out = func(*pytree.tree_map(_on_host, args), **_host_options(packet, args, kwargs, makes))
    if packet is aten.copy_:
        return args[0]
    if not (makes or (there and target is None)) or packet in (aten._local_scalar_dense, aten.item):
        return out
    # What was changed in place is the same tensor as before.
    same = {id(tensor.held): tensor for tensor in there}

    def wrapped(tensor: Tensor) -> Tensor:
        return same[id(tensor)] if id(tensor) in same else DeviceTensor(tensor)

    return pytree.tree_map_only(Tensor, wrapped, out)


def _target(packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device | None:
    """The device that an operation names for its result."""
    device = kwargs.get("device")
    if device is None and packet is aten.to:
        named = (value.device if isinstance(value, Tensor) else value for value in args[1:])
        device = next((value for value in named if isinstance(value, torch.device)), None)
    return None if device is None else torch.device(device)


def _asynchronous(packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    first_flag = next((value for value in args[1:] if isinstance(value, bool)), False)
    return bool(kwargs.get("non_blocking") or (packet is aten.to and first_flag))


def _check_together(func: Any, packet: Any, args: Sequence[Any], on_host: list[Tensor]) -> None:
    if packet in _INDEXING:
        on_host = [tensor for tensor in (args[0], *args[2:3]) if isinstance(tensor, Tensor) and tensor.ndim]
        on_host = [tensor for tensor in on_host if not isinstance(tensor, DeviceTensor)]
    shapes = [tuple(tensor.shape) for tensor in on_host if tensor.ndim or packet in (aten.cat, aten.stack)]
    if shapes:
        raise MixedDevicesError(f"{func}: tensors on the device together with those on the CPU of shapes {shapes}")


def _waits(packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if packet in _INDEXING:
        masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        # A number written through a mask is written without counting the places.
        fills = packet is not aten.index and len(masks) == len(args[1]) == 1 and args[2].numel() == 1
        return (bool(masks) and not fills) or any(isinstance(i, Tensor) and i.device.type == "cpu" for i in args[1])
    if packet is aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return packet in _WAITING


def _on_host(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _host_options(packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any], makes: bool) -> dict[str, Any]:
    options = {key: pytree.tree_map(_on_host, value) for key, value in kwargs.items()}
    if packet is aten._to_copy and isinstance(args[0], DeviceTensor) != makes:
        options.pop("non_blocking", None)
    if options.get("pin_memory"):
        options["pin_memory"] = False
    return options
