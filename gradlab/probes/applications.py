"""Detection of weights that functions apply outside a layer's call: attention, tied heads, `x @ self.weight`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from gradlab.probes.functions import open_attention, tensors_in
from gradlab.probes.identity import storage_key
from gradlab.probes.weights import WeightRow

_PRODUCTS = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "mv", "bmm", "addmm", "addmv", "addbmm", "baddbmm"}
_PRODUCTS |= {"einsum", "tensordot", "inner", "bilinear", "chain_matmul", "multi_dot", "grouped_mm", "_grouped_mm"}
_PRODUCTS |= {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)} | {"conv_tbc", "convolution"}
_EMBEDDINGS = {"embedding", "embedding_bag"}
_WEIGHT_PLACES = {name: 1 for name in _PRODUCTS if name.startswith("conv") or name == "linear"} | {"bilinear": 2}
_LOOKUPS = {"__getitem__", "index_select", "gather", "take_along_dim"}
APPLYING = _PRODUCTS | _EMBEDDINGS | _LOOKUPS
"""Names of the functions that apply a weight to a signal: products and lookups of rows."""

NORMALIZING = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"}

_IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__setitem__"}


@dataclass
class Piece:
    """A weight, or a part of it, as a range of memory.

    Attributes:
        rows: The rows to which the weight belongs, several if it is tied.
        start: The offset of the first element, in elements.
        stop: The offset after the last element.
    """

    rows: list[WeightRow]
    start: int = 0
    stop: int = 0


class Listener(Protocol):
    """The interface of an object that is notified of what functions do."""

    def applied(self, row: WeightRow, output: Tensor, part: tuple[int, int] | None) -> None:
        """Handle the application of a weight, whose output is all of a tensor or one of several equal parts."""

    def normalizing(self, source: Tensor) -> Callable[[Tensor], None] | None:
        """Handle a tensor that is about to be normalized, and return a handler for the result, or None."""

    def overwriting(self, target: Tensor) -> None:
        """Handle an inference tensor that is about to be changed in place."""

    def is_called(self, row: WeightRow) -> bool:
        """Return whether the module that applies this weight is being called."""


@dataclass
class _Memory:
    """Properties of a block of memory.

    Attributes:
        pieces: The weights that lie in it.
        computed_from: The weight from which it was computed using only constants.
        fresh: Whether it was created during the pass without inputs, such as zeros or random numbers.
        reference: A weak reference, which prevents the address from being reused if the memory is freed.
    """

    pieces: list[Piece] = field(default_factory=list)
    computed_from: Piece | None = None
    fresh: bool = False
    reference: StorageWeakRef | None = None

    @property
    def is_weight(self) -> bool:
        """Whether it holds a weight, or values computed from one."""
        return bool(self.pieces) or self.computed_from is not None


class Applications(TorchFunctionMode):
    """A mode that recognizes weights by their memory, including views of them and values computed from weights only.

    The memory of every weight is looked up again for each pass, so that `torch.func.functional_call` may replace it.

    Args:
        modules: All modules by name.
        rows: The weights to look for.
        listener: The object to notify.

    Attributes:
        seen: Names of the rows that some function received outside their own module's call.
        used: Names of the rows that were applied.
    """

    def __init__(self, modules: Mapping[str, nn.Module], rows: Iterable[WeightRow], listener: Listener) -> None:
        super().__init__()
        self.rows, self.listener = list(rows), listener
        self.seen: set[str] = set()
        self.used: set[str] = set()
        self._modules = dict(modules)
        self._memory: dict[int, _Memory] = {}

    def look_up(self) -> None:
        """Look up the memory of the weights."""
        self._memory = {}
        for module in self._modules.values():
            # Other tensors that a module owns are no signal: a weight times a mask is still a weight.
            for tensor in itertools.chain(module._parameters.values(), module._buffers.values()):
                if tensor is not None:
                    self._memory.setdefault(storage_key(tensor), _Memory())
        for row in self.rows:
            for part in row.parts:
                name, _, attribute = part.name.rpartition(".")
                owner = self._modules.get(name)
                tensor = None if owner is None else owner._parameters.get(attribute)
                if tensor is not None:
                    where = self._memory[storage_key(tensor)].pieces
                    _add_piece(where, row, tensor if part.rows is None else tensor[part.rows])

    def forget(self) -> None:
        """Forget what the pass has computed."""
        self._memory = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch and notify the listener of what it does."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return open_attention(*args, **kwargs)
        name = getattr(func, "__name__", "")
        then = None
        if name in NORMALIZING:
            source = args[0] if args else kwargs.get("input")
            then = self.listener.normalizing(source) if isinstance(source, Tensor) else None
        elif _is_in_place(name, args, kwargs):
            self.listener.overwriting(args[0])
        output = func(*args, **kwargs)
        if then is not None:
            then(output)
        elif isinstance(output, Tensor):
            self._look_at(name, args, kwargs, output)
        return output

    def _look_at(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        tensors = [*tensors_in(args), *tensors_in(kwargs.values())]
        memories = [self._memory.get(storage_key(tensor)) for tensor in tensors]
        known = [memory for memory in memories if memory is not None]
        weights = [(t, m) for t, m in zip(tensors, memories, strict=True) if m is not None and m.is_weight]
        of_signal = len(known) < len(memories)
        # A hidden state that starts as zeros is a signal; rows at constant indices are part of the weight.
        applies = (of_signal and name in APPLYING) or (name in _PRODUCTS and any(memory.fresh for memory in known))
        applies |= name in _EMBEDDINGS
        # If a function declares which argument is the weight, the other one is a signal, even a learned one.
        place = _WEIGHT_PLACES.get(name)
        given = None if place is None else kwargs.get("weight", args[place] if len(args) > place else None)
        for tensor, memory in weights:
            pieces = _pieces_in(tensor, memory)
            self.seen.update(row.name for piece in pieces for row in piece.rows)
            if tensor is given or (applies and place is None and not _chooses_matrices(name, tensor, output)):
                self._applied(pieces, output)
        if not of_signal or any(_chooses_matrices(name, tensor, output) for tensor, _ in weights):
            self._note_computed(name, output, weights)
        elif known and _changes_its_first(name):
            self._forget_computed(tensors[0])

    def _applied(self, pieces: list[Piece], output: Tensor) -> None:
        if any(self.listener.is_called(row) for piece in pieces for row in piece.rows):
            return
        for place, piece in enumerate(pieces):
            row, part = piece.rows[0], (place, len(pieces)) if len(pieces) > 1 else None
            if part is None or (output.ndim and output.shape[-1] % len(pieces) == 0):
                self.used.add(row.name)
                self.listener.applied(row, output, part)

    def _note_computed(self, name: str, output: Tensor, weights: list[tuple[Tensor, _Memory]]) -> None:
        """Note that a tensor was computed from weights and constants only; a product is no longer a weight."""
        key = storage_key(output)
        if key in self._memory or output.layout is not torch.strided:
            return
        pieces = [piece for tensor, memory in weights for piece in _pieces_in(tensor, memory)]
        if name in _PRODUCTS | _EMBEDDINGS:
            pieces = []
        # A cast or masked weight is still that weight; among several, the one of the same size.
        alike = [piece for piece in pieces if piece.rows[0].numel == output.numel()] or pieces
        reference = StorageWeakRef(output.untyped_storage())
        self._memory[key] = _Memory([], alike[0] if alike else None, not alike, reference)

    def _forget_computed(self, tensor: Tensor) -> None:
        """Note that a tensor made from constants holds a signal from now on."""
        key = storage_key(tensor)
        memory = self._memory.get(key)
        if memory is not None and memory.reference is not None:
            del self._memory[key]


def _pieces_in(tensor: Tensor, memory: _Memory) -> list[Piece]:
    """Return the weights that lie in a tensor, in order."""
    if memory.computed_from is not None:
        return [memory.computed_from]
    start, stop = _stretch(tensor)
    return sorted((p for p in memory.pieces if p.start < stop and p.stop > start), key=lambda piece: piece.start)


def leave(mode: TorchFunctionMode) -> None:
    """Remove a mode from the stack of modes, wherever it is."""
    above = []
    stack = torch.overrides._get_current_function_mode_stack()
    if not any(entry is mode for entry in stack):
        return
    while (top := torch.overrides._pop_mode()) is not mode:
        above.append(top)
    for entry in reversed(above):
        torch.overrides._push_mode(entry)


def _add_piece(pieces: list[Piece], row: WeightRow, tensor: Tensor) -> None:
    """Add a row's weight to the pieces in a block of memory; for tied weights, the first row stays first."""
    start, stop = _stretch(tensor)
    tied = next((piece for piece in pieces if (piece.start, piece.stop) == (start, stop)), None)
    if tied is None:
        pieces.append(Piece([row], start, stop))
    else:
        tied.rows.append(row)


def _stretch(tensor: Tensor) -> tuple[int, int]:
    """Return the range of a tensor in its memory, in elements."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return 0, tensor.numel()
    start = int(tensor.storage_offset())
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + int(extent) + 1


def _chooses_matrices(name: str, weight: Tensor, output: Tensor) -> bool:
    """Return whether a lookup selects among stacked weights, as a router selects experts; the result is a weight."""
    return name in _LOOKUPS and (weight.ndim > 2 or storage_key(weight) == storage_key(output))


def _changes_its_first(name: str) -> bool:
    return name in _IN_PLACE or (name.endswith("_") and not name.startswith("__"))


def _is_in_place(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a function changes an inference tensor in place; other tensors have a version counter."""
    if not args or not isinstance(args[0], Tensor) or not args[0].is_inference():
        return False
    return _changes_its_first(name) or bool(kwargs.get("inplace"))
