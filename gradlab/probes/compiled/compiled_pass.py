"""Passes in compiled code in which an operation measures responses."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parallel import DistributedDataParallel

from gradlab.probes.compiled.entry import CannotCompile, Entry
from gradlab.probes.compiled.marks import Marked, TracedMarks
from gradlab.probes.compiled.parallel import cutting, uncut
from gradlab.probes.compiled.proof import Proof


class CompiledPass:
    """Passes of one plan, compiled by the backend of the model.

    The code that the model's own entry has compiled stays as it is, since this one has code of its own.

    Args:
        model: The model, not compiled.
        entry: How it was compiled.
        proof: Holds what is traced against the plan.
        marked: A function that is traced at every mark.

    Attributes:
        plan: Where the responses of the model are.
        count: The number of passes so far.
    """

    def __init__(self, model: nn.Module, entry: Entry, proof: Proof, marked: Marked) -> None:
        self.model, self.plan, self.count = model, proof.plan, 0
        self.traced = TracedMarks(model, list(proof.marks), marked)
        self._backend, self._proof = entry.backend, proof
        self._function = torch.compile(_called(), backend=self._compile, dynamic=entry.dynamic, fullgraph=True)
        self._started = False
        self._around: DistributedDataParallel | None = None
        self._refused: CannotCompile | None = None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the model.

        Raises:
            CannotCompile: If nothing has run, because this cannot be compiled.
        """
        self._started, self._refused = False, None
        undo = self._begin()
        try:
            with self.traced.in_place(), torch.compiler.set_stance("default"), uncut() as self._around:
                output = self._function(self.model, args, kwargs)
        except BaseException as error:
            undo()
            if self._started or not isinstance(error, Exception):
                raise
            # Torch raises an error of its own about the backend.
            raise self._refused or _in_short(error) from error
        self.count += 1
        return output

    def _begin(self) -> Callable[[], None]:
        """Prepare for a pass, and return what is to be called if it fails."""
        raise AssertionError("a pass says how it begins")

    def _after(self, graph: fx.Graph) -> Callable[[Sequence[Any], Any], None] | None:
        """Return what is to be called with the inputs and the outputs of a graph when it has run.

        Raises:
            CannotCompile: If what is measured in it cannot be read.
        """
        return None

    def _compile(self, graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """Compile a graph once it is proved: the backend of `torch.compile`."""
        try:
            self._proof.apply(graph, inputs)
            after = self._after(graph.graph)
        except CannotCompile as refused:
            self._refused = refused
            raise
        backend = self._backend if self._around is None else cutting(self._backend, self._around)
        compiled = backend(graph, inputs)

        def run(*values: Any) -> Any:
            self._started = True
            outputs = compiled(*values)
            if after is not None:
                after(values, outputs)
            return outputs

        return run


def _call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a model as torch does, if this is being compiled."""
    if not torch.compiler.is_compiling():
        raise CannotCompile("torch.compile passes it over")
    return model._call_impl(*args, **kwargs)


def _called() -> Callable[..., Any]:
    """Return a function with code of its own, to which torch keeps what it compiles."""
    code = _call.__code__.replace(co_name="call_model")
    return types.FunctionType(code, _call.__globals__)


def _in_short(error: Exception) -> CannotCompile:
    """Return what an error says, without torch's explanations."""
    if isinstance(error, CannotCompile):
        return error
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return CannotCompile(f"torch.compile gives up ({said[:200]})")
