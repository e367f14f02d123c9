"""The precision of a training run: float32, or bfloat16 where the device benefits from it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradlab.errors import UsageError
from gradlab.stats.float32 import full_float32
from gradlab.transfer import placed


@dataclass(frozen=True)
class Arithmetic:
    """Either float32, or bfloat16 under autocast; parameters are float32 in both cases.

    Channels come last where that is faster: in bfloat16, and on the CPU.

    Attributes:
        device: The device of the computation.
        bf16: Whether to compute in bfloat16.
    """

    device: torch.device
    bf16: bool

    @classmethod
    def choose(cls, amp: str, device: torch.device) -> Arithmetic:
        """Resolve `auto`, `bf16` or `off` for a device.

        Raises:
            UsageError: If `bf16` is requested on a device without autocast.
        """
        if amp == "bf16" and (device.type == "mps" or not torch.amp.is_autocast_available(device.type)):
            raise UsageError(f"bf16 is for cpu, cuda and devices that autocast, not {device.type}: use --amp off")
        return cls(device, amp == "bf16" or (amp == "auto" and _gains(device)))

    def __str__(self) -> str:
        return "bf16" if self.bf16 else "float32"

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def precision(self) -> AbstractContextManager[object]:
        """Return the context for forward and backward passes, in which float32 is not replaced by TF32."""
        return nullcontext() if self.bf16 else full_float32()

    def layout(self, images: Tensor) -> Tensor:
        """Convert images (B, C, H, W) to the memory layout that is fastest on the device; tokens have but one."""
        return images.contiguous(memory_format=self._memory_format()) if images.ndim == 4 else images

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, in that layout."""
        model = placed(model, self.device)
        return model.to(memory_format=self._memory_format())  # type: ignore[call-overload,no-any-return]

    def _memory_format(self) -> torch.memory_format:
        fast = self.bf16 or self.device.type == "cpu"
        return torch.channels_last if fast else torch.contiguous_format


def _gains(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these instructions bfloat16 is emulated and slower than float32.
    return device.type == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)
