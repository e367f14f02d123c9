"""Weights applied by functions: in attention, by tied heads, by `x @ self.weight`, outside of any layer's call."""

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
"""Names of the functions that apply a weight to a signal: products, and rows looked up by it."""

NORMALIZING = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"}

_IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__setitem__"}


@dataclass
class Piece:
    """A weight, or a part of it, as a stretch of some memory.

    Attributes:
        rows: Whose weight it is: of several rows where it is tied.
        start: Of its first element, in elements.
        stop: After its last one.
    """

    rows: list[WeightRow]
    start: int = 0
    stop: int = 0


class Listener(Protocol):
    """Who is told of what functions do."""

    def applied(self, row: WeightRow, output: Tensor, part: tuple[int, int] | None) -> None:
        """A function has applied a weight; of so many equal parts of the output's last dimension one may be its own."""

    def normalizing(self, source: Tensor) -> Callable[[Tensor], None] | None:
        """A function is about to normalize a tensor; what to do with what it returns."""

    def overwriting(self, target: Tensor) -> None:
        """A function is about to change an inference tensor in place."""

    def is_called(self, row: WeightRow) -> bool:
        """Whether the module is being called which applies this weight."""


@dataclass
class _Memory:
    """What is known of a stretch of memory.

    Attributes:
        pieces: Weights that lie in it.
        computed_from: The weight that it was computed from, with nothing but constants.
        fresh: Whether it was made within the pass out of nothing, as zeros and random numbers are.
        reference: Keeps the address of what may be gone from being given to other memory.
    """

    pieces: list[Piece] = field(default_factory=list)
    computed_from: Piece | None = None
    fresh: bool = False
    reference: StorageWeakRef | None = None

    @property
    def is_weight(self) -> bool:
        """Whether it holds a weight, as it is or computed with."""
        return bool(self.pieces) or self.computed_from is not None


class Applications(TorchFunctionMode):
    """A mode that recognizes weights by their memory: views of them, and what is computed of weights alone.

    Every weight's memory is looked up anew for each pass, so that `torch.func.functional_call` may put others there.

    Args:
        modules: All modules by name.
        rows: The weights that are looked for.
        listener: Who is told.

    Attributes:
        seen: Names of the rows that some function has taken, other than within their own module's call.
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
        """Find out where the weights lie now."""
        self._memory = {}
        for module in self._modules.values():
            # Whatever else a module owns is no signal: a weight times a mask is still a weight.
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
        """Let go of what the pass has computed."""
        self._memory = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call any function of torch, and tell of what it does."""
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
        # A hidden state that begins as zeros is a signal; rows at constant places are a part of the weight.
        applies = (of_signal and name in APPLYING) or (name in _PRODUCTS and any(memory.fresh for memory in known))
        applies |= name in _EMBEDDINGS
        # Where a function says which of its arguments is the weight, the other one is a signal, be it learned.
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
        """Note that a tensor was computed of weights and constants alone; a product is a weight no longer."""
        key = storage_key(output)
        if key in self._memory or output.layout is not torch.strided:
            return
        pieces = [piece for tensor, memory in weights for piece in _pieces_in(tensor, memory)]
        if name in _PRODUCTS | _EMBEDDINGS:
            pieces = []
        # Where a weight is cast or masked it is still that weight; of several, the one that has this form.
        alike = [piece for piece in pieces if piece.rows[0].numel == output.numel()] or pieces
        reference = StorageWeakRef(output.untyped_storage())
        self._memory[key] = _Memory([], alike[0] if alike else None, not alike, reference)

    def _forget_computed(self, tensor: Tensor) -> None:
        """What was made of constants holds a signal from now on."""
        key = storage_key(tensor)
        memory = self._memory.get(key)
        if memory is not None and memory.reference is not None:
            del self._memory[key]


def _pieces_in(tensor: Tensor, memory: _Memory) -> list[Piece]:
    """The weights that lie in a tensor, in order."""
    if memory.computed_from is not None:
        return [memory.computed_from]
    start, stop = _stretch(tensor)
    return sorted((p for p in memory.pieces if p.start < stop and p.stop > start), key=lambda piece: piece.start)


def leave(mode: TorchFunctionMode) -> None:
    """Take a mode off the stack of modes, wherever it lies."""
    above = []
    stack = torch.overrides._get_current_function_mode_stack()
    if not any(entry is mode for entry in stack):
        return
    while (top := torch.overrides._pop_mode()) is not mode:
        above.append(top)
    for entry in reversed(above):
        torch.overrides._push_mode(entry)


def _add_piece(pieces: list[Piece], row: WeightRow, tensor: Tensor) -> None:
    """Add a row's weight to what lies in some memory; of tied weights the first one's row is the first."""
    start, stop = _stretch(tensor)
    tied = next((piece for piece in pieces if (piece.start, piece.stop) == (start, stop)), None)
    if tied is None:
        pieces.append(Piece([row], start, stop))
    else:
        tied.rows.append(row)


def _stretch(tensor: Tensor) -> tuple[int, int]:
    """From where to where a tensor lies in its memory, in elements."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return 0, tensor.numel()
    start = int(tensor.storage_offset())
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + int(extent) + 1


def _chooses_matrices(name: str, weight: Tensor, output: Tensor) -> bool:
    """Whether a signal chooses among stacked weights, as a router does experts: they are weights still."""
    return name in _LOOKUPS and (weight.ndim > 2 or storage_key(weight) == storage_key(output))


def _changes_its_first(name: str) -> bool:
    return name in _IN_PLACE or (name.endswith("_") and not name.startswith("__"))


def _is_in_place(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function changes its first argument, an inference tensor: the others tell by their version."""
    if not args or not isinstance(args[0], Tensor) or not args[0].is_inference():
        return False
    return _changes_its_first(name) or bool(kwargs.get("inplace"))
