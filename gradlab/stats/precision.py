"""The precision in which long sums are joined."""

import torch


def widest(device: torch.device) -> torch.dtype:
    """Float64, but on mps, which has none, float32."""
    return torch.float32 if device.type == "mps" else torch.float64
