"""Refusal of what is captured in a CUDA graph, whose replays call nothing of Python."""

from __future__ import annotations

from typing import Any

import torch

from gradlab.errors import GradlabError


def refuse_captured_pass(*_: Any) -> None:
    """Raise an error if a pass is being captured; the arguments are those of a hook, or of a call."""
    if _is_capturing():
        raise GradlabError(
            "a CUDA graph is being captured, whose replays call no hooks: probe the model without it; only "
            "ParameterGradients sees what a replay leaves in `.grad`"
        )


def refuse_captured_step() -> None:
    """Raise an error if a step is being captured, which would be measured once for all replays."""
    if _is_capturing():
        raise GradlabError(
            "a CUDA graph is being captured, whose replays do not call the probe: step outside of it, after each replay"
        )


def _is_capturing() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
