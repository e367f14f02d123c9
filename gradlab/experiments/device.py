"""The device of a computation: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, or another accelerator of torch by its name."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradlab.errors import UsageError


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name, of any accelerator that torch has; `auto` is the first of cuda, mps and cpu.

    Raises:
        UsageError: If the device is not available.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available[:0] = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name == "auto":
        return torch.device(available[0])
    if name not in available and torch.accelerator.is_available():
        available.append(str(torch.accelerator.current_accelerator()))
    if name not in available:
        raise UsageError(f"no device {name!r} here; there is {', '.join(available)}")
    return torch.device(name)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A context with the random numbers of a seed, on the CPU and the devices of a kind, after which theirs go on."""
    devices = [] if device.type == "cpu" else [*range(torch.get_device_module(device).device_count())]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        yield


def device_name(device: torch.device) -> str:
    """A device in words, for a record."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"
