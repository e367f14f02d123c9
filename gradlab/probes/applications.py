"""Detection of weights that functions apply outside a layer's call: attention, tied heads, `x @ self.weight`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from gradlab.probes.functions import function_name, open_attention, tensors_in
from gradlab.probes.identity import storage_key
from gradlab.probes.weight_memory import Memory, Piece, add_piece, pieces_in
from gradlab.probes.weight_watch import WatchedParameter
from gradlab.probes.weights import Part, WeightRow

_PRODUCTS = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "mv", "bmm", "addmm", "addmv", "addbmm", "baddbmm"}
_PRODUCTS |= {
    "einsum",
    "tensordot",
    "inner",
    "bilinear",
    "chain_matmul",
    "multi_dot",
    "vecdot",
    "grouped_mm",
    "_grouped_mm",
}
_PRODUCTS |= {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)} | {"conv_tbc", "convolution"}
_EMBEDDINGS = {"embedding", "embedding_bag"}
_WEIGHT_PLACES = {name: 1 for name in _PRODUCTS if name.startswith("conv") or name == "linear"} | {"bilinear": 2}
_LOOKUPS = {"__getitem__", "index_select", "gather", "take_along_dim"}
_REPEATS = {"repeat", "repeat_interleave", "tile"}
APPLYING = _PRODUCTS | _EMBEDDINGS | _LOOKUPS
"""Names of the functions that apply a weight to a signal: products and lookups of rows."""

NORMALIZING = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"}

_NOTHING = nullcontext()

_PLAIN = {nn.Parameter, WatchedParameter, Tensor, type(None)}

_IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__setitem__"}


class Listener(Protocol):
    """The interface of an object that is notified of what functions do."""

    def received(self, rows: Iterable[WeightRow], name: str) -> None:
        """Handle that a function has received weights that it does not apply."""

    def applied(self, row: WeightRow, output: Tensor, part: tuple[int, int] | None) -> None:
        """Handle the application of a weight, whose output is all of a tensor or one of several equal parts."""

    def normalizing(self, source: Tensor) -> Callable[[Tensor], None] | None:
        """Handle a tensor that is about to be normalized, and return a handler for the result, or None."""

    def overwriting(self, target: Tensor) -> None:
        """Handle an inference tensor that is about to be changed in place."""

    def is_called(self, row: WeightRow) -> bool:
        """Return whether the module that applies this weight is being called."""


class Applications(TorchFunctionMode):
    """A mode that recognizes weights by their memory, including views of them and values computed from weights only.

    The memory of every weight is looked up for each pass, so that `torch.func.functional_call` may replace it.

    Args:
        modules: All modules by name.
        rows: The weights to look for.
        listener: The object to notify.

    Attributes:
        seen: Names of the rows that some function received outside their own module's call.
        used: Names of the rows that were applied.
        plain: Whether all tensors that modules own are of torch's own classes.
        depth: The number of times that it is on the stack of modes: 1 or 0.
    """

    def __init__(self, modules: Mapping[str, nn.Module], rows: Iterable[WeightRow], listener: Listener) -> None:
        super().__init__()
        self.rows, self.listener = list(rows), listener
        self.seen: set[str] = set()
        self.used: set[str] = set()
        self._modules = dict(modules)
        self._memory: dict[int, Memory] = {}
        self._owned: dict[int, Memory] = {}
        self._places: list[object] = []
        self.plain, self.depth = False, 0
        self._parts = [*self._find_parts()]
        self._weighted = [*{id(table): table for _, _, table, _ in self._parts}.values()]
        self._tables = [table for m in self._modules.values() for table in (m._parameters, m._buffers)]
        # Without these, the memory of new tensors could have the addresses of old ones.
        self._references: list[StorageWeakRef] = []

    def is_plain(self) -> bool:
        """Note and return whether the tensors of the modules with weights are of torch's own classes."""
        self.plain = {type(tensor) for table in self._weighted for tensor in table.values()} <= _PLAIN
        return self.plain

    def enter(self) -> None:
        """Look at all functions from here on, with the weights where they are now."""
        # What a module owns besides weights is no signal: a weight times a mask is still a weight.
        tensors = [tensor for table in self._tables for tensor in table.values() if tensor is not None]
        self.plain = {*map(type, tensors)} <= _PLAIN
        places: list[object] = [storage_key(tensor) for tensor in tensors]
        for _, _, tensor in self._weights():
            dense = tensor.layout is torch.strided and not tensor.is_nested
            places.append((tensor.storage_offset(), tensor.shape, tensor.stride()) if dense else object())
        if places != self._places:
            self._places, self._owned = places, self._find_owned(tensors)
        self._memory = dict(self._owned)
        self.depth = 1
        self.__enter__()

    def leave(self) -> None:
        """Look at no function any more, and forget what the pass has computed."""
        leave(self)
        self._memory = {}
        self.depth = 0

    def weights(self) -> list[Tensor]:
        """Return the present tensors of the rows."""
        return [tensor for _, _, table, key in self._parts if (tensor := table.get(key)) is not None]

    def rows_in(self, tensor: Tensor) -> list[WeightRow]:
        """Return the rows to which a tensor of the model belongs."""
        return [row for row, _, weight in self._weights() if weight is tensor]

    def is_constant(self, tensor: Tensor) -> bool:
        """Return whether a tensor is a weight, another tensor of the model, or computed from such ones alone."""
        return storage_key(tensor) in self._memory

    def _weights(self) -> Iterator[tuple[WeightRow, Part, Tensor]]:
        """Yield the present tensors of the parts of the rows."""
        for row, part, table, attribute in self._parts:
            if (tensor := table.get(attribute)) is not None:
                yield row, part, tensor

    def _find_parts(self) -> Iterator[tuple[WeightRow, Part, dict[str, nn.Parameter | None], str]]:
        """Yield the parts of the rows, and where the modules have their tensors."""
        for row in self.rows:
            for part in row.parts:
                name, _, attribute = part.name.rpartition(".")
                if (owner := self._modules.get(name)) is not None:
                    yield row, part, owner._parameters, attribute

    def _find_owned(self, tensors: list[Tensor]) -> dict[int, Memory]:
        """Return what is known of the memory of the tensors that modules own."""
        owned = {storage_key(tensor): Memory() for tensor in tensors}
        self._references = [StorageWeakRef(t.untyped_storage()) for t in tensors if storage_key(t) != id(t)]
        for row, part, tensor in self._weights():
            pieces = owned[storage_key(tensor)].pieces
            add_piece(pieces, row, tensor if part.rows is None else tensor[part.rows])
        return owned

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
        name = function_name(func)
        then = None
        others = torch._C._len_torch_function_stack() > 0
        # Function modes of other users are to see only what the model does.
        unseen: AbstractContextManager[object] = torch._C.DisableTorchFunction() if others else _NOTHING
        with unseen:
            if name in NORMALIZING:
                source = args[0] if args else kwargs.get("input")
                then = self.listener.normalizing(source) if isinstance(source, Tensor) else None
            elif (kwargs or _changes_its_first(name)) and _is_in_place(name, args, kwargs):
                self.listener.overwriting(args[0])
        output = func(*args, **kwargs)
        with unseen:
            if then is not None:
                then(output)
            elif isinstance(output, Tensor):
                self._look_at(name, args, kwargs, output)
        return output

    def _look_at(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        tensors = [*tensors_in(args), *tensors_in(kwargs.values())] if kwargs else [*tensors_in(args)]
        memories = [self._memory.get(storage_key(tensor)) for tensor in tensors]
        if tensors and not any(memories):
            return
        known = [memory for memory in memories if memory is not None]
        weights = [(t, m) for t, m in zip(tensors, memories, strict=True) if m is not None and m.is_weight]
        of_signal = len(known) < len(memories)
        # A hidden state that starts as zeros, or as one learned for all examples, is a signal; rows at constant indices
        # are part of the weight.
        constant = not of_signal and name in _PRODUCTS
        states = {id(t) for t, m in zip(tensors, known, strict=True) if _is_state(t, m)} if constant else set()
        applies = (of_signal and name in APPLYING) or bool(states) or name in _EMBEDDINGS
        # If a function declares which argument is the weight, the other one is a signal, even a learned one.
        place = _WEIGHT_PLACES.get(name)
        given = None if place is None else kwargs.get("weight", args[place] if len(args) > place else None)
        for tensor, memory in weights:
            pieces = pieces_in(tensor, memory)
            rows = [row for piece in pieces for row in piece.rows]
            self.seen.update(row.name for row in rows)
            matrix = place is None and id(tensor) not in states and not _chooses_matrices(name, tensor, output)
            if tensor is given or (applies and matrix):
                self._applied(pieces, output)
            else:
                self.listener.received(rows, name)
        if not of_signal or any(_chooses_matrices(name, tensor, output) for tensor, _ in weights):
            learned = not states and any(map(_is_learned, tensors, memories))
            self._note_computed(name, output, weights, fresh=not learned)
        elif _changes_its_first(name):
            self._forget_computed(tensors[0])

    def _applied(self, pieces: list[Piece], output: Tensor) -> None:
        if any(self.listener.is_called(row) for piece in pieces for row in piece.rows):
            return
        for place, piece in enumerate(pieces):
            row, part = piece.rows[0], (place, len(pieces)) if len(pieces) > 1 else None
            if part is None or (output.ndim and output.shape[-1] % len(pieces) == 0):
                self.used.add(row.name)
                self.listener.applied(row, output, part)

    def _note_computed(self, name: str, output: Tensor, weights: list[tuple[Tensor, Memory]], *, fresh: bool) -> None:
        """Note that a tensor was computed from weights and constants only; a product is no longer a weight."""
        key = storage_key(output)
        if key in self._memory or output.layout is not torch.strided:
            return
        pieces = [piece for tensor, memory in weights for piece in pieces_in(tensor, memory)]
        if name in _PRODUCTS | _EMBEDDINGS:
            pieces = []
        # A cast or masked weight is still that weight; among several, the one of the same size.
        alike = [piece for piece in pieces if piece.rows[0].numel == output.numel()] or pieces
        reference = StorageWeakRef(output.untyped_storage())
        fresh = (fresh and not alike) or name in _REPEATS
        self._memory[key] = Memory([], alike[0] if alike else None, fresh, reference)

    def _forget_computed(self, tensor: Tensor) -> None:
        """Note that a tensor made from constants holds a signal from now on."""
        key = storage_key(tensor)
        memory = self._memory.get(key)
        if memory is not None and memory.reference is not None:
            del self._memory[key]


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


def _chooses_matrices(name: str, weight: Tensor, output: Tensor) -> bool:
    """Return whether a lookup selects among stacked weights, as a router selects experts; the result is a weight."""
    return name in _LOOKUPS and (weight.ndim > 2 or storage_key(weight) == storage_key(output))


def _is_state(tensor: Tensor, memory: Memory) -> bool:
    """Return whether a constant was created in the pass, or is repeated, as a learned state is for all examples."""
    if memory.fresh or tensor.layout is not torch.strided or tensor.is_nested:
        return memory.fresh
    return any(size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _is_learned(tensor: Tensor, memory: Memory | None) -> bool:
    """Return whether a tensor is a parameter or was computed from parameters, as the shares of a mixture of weights."""
    computed = memory is not None and memory.reference is not None and not memory.fresh
    return computed or isinstance(tensor, nn.Parameter)


def _changes_its_first(name: str) -> bool:
    return name in _IN_PLACE or (name.endswith("_") and not name.startswith("__"))


def _is_in_place(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a function changes an inference tensor in place; other tensors have a version counter."""
    if not args or not isinstance(args[0], Tensor) or not args[0].is_inference():
        return False
    return _changes_its_first(name) or bool(kwargs.get("inplace"))
