"""Refusal of what records a model while a probe is attached: its hooks would become a part of the recorded program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gradlab.errors import GradlabError

# Torch 2.6 tells only whether a model is compiled or exported.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def refuse_recording(probe: str, in_traces: bool) -> Callable[..., None]:
    """Return a forward-pre hook of a model that raises an error where its pass is recorded.

    Args:
        probe: The name of the probe.
        in_traces: Whether the probe measures passes that `torch.jit.trace` records, and leaves them as they are.
    """

    def refuse(module: nn.Module, args: Any) -> None:
        if _is_exporting():
            _refuse(probe, "exported by torch.export")
        if torch._C._get_tracing_state() is not None and not in_traces:
            _refuse(probe, "traced by torch.jit.trace")
        # What compiles the model compiles this hook as well, and cannot look into what traces.
        if not torch.compiler.is_dynamo_compiling() and _is_traced_by_fx():
            _refuse(probe, "traced by make_fx (also called by torch.func.linearize)")

    return refuse


def _is_traced_by_fx() -> bool:
    """Return whether `make_fx` records all operations; where nobody has loaded it, nobody does."""
    tracer = sys.modules.get("torch.fx.experimental.proxy_tensor")
    return tracer is not None and tracer.get_proxy_mode() is not None


def refuse_proxy(output: object) -> None:
    """Refuse an output by which torch.fx traces a part of a model, whose own hooks it passes by.

    Raises:
        GradlabError: If the output is a proxy of torch.fx.
    """
    if isinstance(output, getattr(sys.modules.get("torch.fx"), "Proxy", ())):
        _refuse("a probe", "traced by torch.fx")


def refuse_scripting() -> None:
    """Refuse to name a hook to `torch.jit`, which would compile its source.

    Raises:
        GradlabError: If `torch.jit` asks the caller for a name.
    """
    if str(sys._getframe(2).f_globals.get("__name__", "")).startswith("torch.jit"):
        _refuse("a probe", "scripted by torch.jit.script")


def _refuse(probe: str, how: str) -> None:
    raise GradlabError(
        f"the model is {how} while {probe} is attached, whose hooks cannot be a part of the program: do so outside of "
        "the probe's `with` block"
    )
