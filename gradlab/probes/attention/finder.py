"""Finds attention that torch functions compute: fused, or as a softmax whose result weighs values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradlab.errors import UsageError
from gradlab.probes.functions import function_name, open_attention, tensors_in
from gradlab.probes.hooks import in_backward
from gradlab.probes.identity import Remembered
from gradlab.probes.outputs import refuse_nested
from gradlab.probes.split_signals import Split, SplitSignals
from gradlab.stats.attention import AttentionRows, attention_rows, sampled_logits, sampled_positions

_WEIGHING = {"matmul", "__matmul__", "bmm", "einsum", "baddbmm"}


class Listener(Protocol):
    """The interface that is notified of attention."""

    def attended(self, rows: AttentionRows, split: Split) -> None:
        """Called with some rows of attention at the current point of the pass, and what ranks have apart of them."""

    def heads(self) -> int | None:
        """The number of heads in the first of three dimensions; None if they are not there."""


class AttentionFinder(TorchFunctionMode):
    """A mode that computes statistics of attention from its queries and keys, without changing its kernels.

    Args:
        listener: The object that receives the rows.
        rows: The number of evenly spaced rows to take from each attention; None takes all.
        signals: The tensors of the pass that are parts of what ranks have together.
    """

    def __init__(self, listener: Listener, rows: int | None, signals: SplitSignals) -> None:
        super().__init__()
        self.listener, self.rows, self.signals = listener, rows, signals
        self._weights: Remembered[tuple[AttentionRows, Split]] = Remembered()

    def forget(self) -> None:
        """Release softmax outputs that were not attention, and marks of parts."""
        self._weights.take_all()
        self.signals.forget()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a torch function, and measure it if it is attention."""
        kwargs = dict(kwargs or {})
        if in_backward():
            return func(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return open_attention(*args, **kwargs)
        name = function_name(func)
        if name == "scaled_dot_product_attention":
            with torch._C.DisableTorchFunction(), torch.no_grad():
                self.listener.attended(self._fused(*args, **kwargs), self._split(args, kwargs, "query"))
            return self._followed(func, args, kwargs)
        found = self._softmax(args, kwargs) if name == "softmax" else self._known(name, args)
        output = self._followed(func, args, kwargs)
        if found is not None and isinstance(output, Tensor):
            self._weights.put(output, found)
        return output

    def _followed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a function, whose output is a part if an argument is."""
        output = func(*args, **kwargs)
        if self.signals:
            self.signals.follow((*args, *kwargs.values()), output)
        return output

    def _split(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Split:
        """Return what ranks have apart of the first argument of a function, which is refused if it is a DTensor."""
        tensor = args[0] if args else kwargs[name]
        if hasattr(tensor, "placements"):
            raise UsageError(
                "attention is computed from DTensors, of which no rank has all rows: give the parallel style of its "
                "projections use_local_output=True"
            )
        return self.signals.of(tensor)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> AttentionRows:
        """The rows of attention for the arguments of the fused function."""
        refuse_nested([query, key], "rows of attention")
        if attn_mask is not None and query.ndim != 4:
            attn_mask = _by_head(attn_mask.expand(*query.shape[:-1], key.shape[-2]))
        query, key = _by_head(query), _by_head(key)
        positions = sampled_positions(query.shape[2], self.rows, query.device)
        return attention_rows(sampled_logits(query, key, positions, mask=attn_mask, causal=is_causal, scale=scale))

    def _softmax(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[AttentionRows, Split] | None:
        """The rows of a softmax over the last of at least three dimensions, if it is attention."""
        logits = args[0] if args else kwargs.get("input")
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if not isinstance(logits, Tensor) or logits.ndim < 3 or dim not in (-1, logits.ndim - 1):
            return None
        refuse_nested([logits], "rows of attention")
        split = self._split(args, kwargs, "input")
        with torch._C.DisableTorchFunction(), torch.no_grad():
            heads = self.listener.heads() if logits.ndim == 3 else None
            logits = _by_head(logits) if heads is None else logits.unflatten(0, (-1, heads))
            positions = sampled_positions(logits.shape[2], self.rows, logits.device)
            return attention_rows(logits[:, :, positions]), split

    def _known(self, name: str, args: tuple[Any, ...]) -> tuple[AttentionRows, Split] | None:
        """The attention weights among a function's arguments, which it applies to values or passes on."""
        for tensor in tensors_in(args):
            found = self._weights.find(tensor)
            if found is None:
                continue
            if name in _WEIGHING:
                self._weights.take(tensor)
                self.listener.attended(*found)
                return None
            return found
        return None


def _by_head(x: Tensor) -> Tensor:
    """Reshape (…, H, T, d) to (B, H, T, d); with fewer than four dimensions there is one head."""
    if x.ndim == 4:
        return x
    return x.flatten(0, -4) if x.ndim > 4 else x.reshape(-1, 1, *x.shape[-2:])
