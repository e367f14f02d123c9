"""The way that each pass of a compiled model takes: in compiled code where that is proved right, otherwise eagerly."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradlab.probes.capture import refuse_captured_pass
from gradlab.probes.compiled.compiled_pass import CompiledPass
from gradlab.probes.compiled.discovery import Discovery, Plan
from gradlab.probes.compiled.entry import CannotCompile, Entry, entry_of
from gradlab.probes.compiled.marks import marks_of, watch_marks
from gradlab.probes.compiled.proof import GRADIENTS, Operation, Proof
from gradlab.probes.finder import Observer, ResponseFinder
from gradlab.probes.hooks import EAGERLY, unwrap
from gradlab.probes.pass_kinds import form_of, modes_of
from gradlab.probes.passes import check_thread
from gradlab.probes.streams import StreamOrder
from gradlab.probes.targets import Targets, replaced

Kind = tuple[object, ...]

PassCounts = tuple[int, int]
"""The number of passes in compiled code, and of all passes."""

_GLOBAL_HOOKS = [f"_global_{when}_hooks" for when in ("forward_pre", "forward", "backward_pre", "backward")]
"""Where torch keeps the hooks of all modules."""

AROUND = "other probes, hooks on all modules or torch.compiler.set_stance want it to"


class CompiledRoute:
    """Takes the place of a compiled model's entry while a probe is attached.

    A pass of a new kind (modes, dtypes and shapes) runs eagerly: hooks measure it, and show where its responses are.
    Later passes of the kind run in code that the model's own backend has compiled with the sums inside, and so does the
    first pass of a further shape once two shapes have shown the same. What cannot run there runs eagerly, and a warning
    says why.

    Args:
        model: The model, not compiled.
        entry: How it was compiled.
        targets: What is measured.
        observer: What measures eager passes.
        blocks: Modules whose outputs are also measured.

    Attributes:
        operation: What measures responses in compiled code.
    """

    operation: Operation

    def __init__(
        self,
        model: nn.Module,
        entry: Entry,
        targets: Targets,
        observer: Observer,
        blocks: dict[str, nn.Module] | None = None,
    ) -> None:
        self.model, self.entry, self.targets = model, entry, targets
        self.device = next(parameter.device for parameter in model.parameters())
        self.discovery = Discovery(observer, gradients=self.operation is GRADIENTS)
        self.finder = ResponseFinder(model, targets, self.discovery, blocks)
        self.marks = marks_of(model, targets, blocks or ())
        self._plans: dict[Kind, Plan | None] = {}
        # What eager passes of several shapes have shown, by the rest of their kind.
        self._shown: dict[Kind, list[Plan | None]] = {}
        self._passes: dict[Plan, CompiledPass] = {}
        self._own = range(0)
        self._forbidden = False
        self._eager = 0
        self._thread: int | None = None
        self._said: set[str] = set()
        self._order = StreamOrder()

    def attach(self, stack: ExitStack) -> None:
        """Take the place of the entry and attach the finder, until the stack is closed."""
        # Whether others than probes want it to run eagerly; hooks show which probes do.
        self._forbidden = not EAGERLY.holders and _stance() != "default"
        stack.enter_context(EAGERLY)
        first = RemovableHandle.next_id
        watch_marks(self.model, self.marks, self.discovery.marked, stack)
        self.finder.attach(stack)
        self._own = range(first, RemovableHandle.next_id)
        stack.enter_context(self.entry.taken_by(self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on one of both ways."""
        refuse_captured_pass()
        if self._thread is not None:
            check_thread(self.model, self._thread)
        self._thread = threading.get_ident()
        self._order.begin()
        try:
            return self._run(args, kwargs)
        finally:
            self._order.end()
            self._thread = None

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A model whose sizes are symbols is compiled once for all of them.
        kind = self._kind(args, kwargs, sizes=not self.entry.dynamic)
        shown = self._shown.setdefault(self._kind(args, kwargs, sizes=False), [])
        same = shown[0] if len(shown) > 1 and len(set(shown)) == 1 else None
        plan = self._plans.get(kind, same)
        if plan is not None and (compiled := self._compiled(plan)) is not None:
            try:
                return self._call(compiled, kind, args, kwargs)
            except CannotCompile as reason:
                # What other shapes have shown need not hold for this one.
                if kind in self._plans:
                    self._give_up(kind, reason)
        self.discovery.begin()
        output = self.entry.call(*args, **kwargs)
        self._eager += 1
        if kind not in self._plans:
            try:
                self._plans[kind] = self.discovery.plan(self.finder)
            except CannotCompile as reason:
                self._give_up(kind, reason)
            shown.append(self._plans[kind])
        return output

    def _kind(self, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: bool) -> Kind:
        return modes_of(self.model), *(form_of(given, shapes=sizes, numbers=sizes) for given in (args, kwargs))

    def _make(self, proof: Proof) -> CompiledPass:
        """Return what runs passes of the plan of a proof."""
        raise AssertionError("a route says what runs its passes")

    def _call(self, compiled: CompiledPass, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a pass in compiled code."""
        return compiled(args, kwargs)

    def _obstacle(self) -> str | None:
        """Return why passes have to run eagerly at present, if they have to."""
        if self._forbidden or any(getattr(torch.nn.modules.module, table) for table in _GLOBAL_HOOKS):
            return AROUND
        return "a layer was replaced while the probe was attached" if replaced(self.model, self.targets) else None

    def _compiled(self, plan: Plan) -> CompiledPass | None:
        """Return what runs passes of a plan, or None while something is in force that must run as it is."""
        obstacle = self._obstacle()
        if obstacle is None:
            if plan not in self._passes:
                self._passes[plan] = self._make(Proof(plan, self.marks, self.targets, self.operation))
            if self._passes[plan].traced.prepare(self._own):
                return self._passes[plan]
        _say(obstacle or AROUND, self._said, stacklevel=6)
        return None

    def _give_up(self, kind: Kind, reason: CannotCompile) -> None:
        self._plans[kind] = None
        _say(str(reason), self._said, stacklevel=6)

    @property
    def passes(self) -> PassCounts:
        """How many passes ran in compiled code, and how many in all."""
        compiled = sum(passes.count for passes in self._passes.values())
        return compiled, compiled + self._eager

    @staticmethod
    def notes(by_rank: Iterable[PassCounts | None]) -> list[str]:
        """Say how many passes of all ranks ran in compiled code.

        Args:
            by_rank: The passes of every rank, None of one whose model is not compiled.
        """
        compiled, passes = (sum(counts) for counts in zip((0, 0), *filter(None, by_rank), strict=True))
        if not passes:
            return []
        others = "the others ran eagerly, such as the first, which shows where responses are"
        return [f"{compiled} of {passes} passes of the compiled model ran in compiled code; {others}"]


def usable_entry(model: nn.Module) -> Entry | None:
    """Return the entry of a model that was compiled as a whole, or None if it is not compiled or can have no route.

    Args:
        model: The model as the probe was given it.
    """
    try:
        entry = entry_of(model)
    except CannotCompile:
        return None
    parameters = list(unwrap(model).parameters())
    devices = {parameter.device for parameter in parameters}
    if len(devices) != 1 or "mps" in {device.type for device in devices}:
        return None
    # Tensor parallelism and sharding.
    return None if any(hasattr(parameter, "placements") for parameter in parameters) else entry


def _say(reason: str, said: set[str], stacklevel: int) -> None:
    """Warn of a reason once."""
    sentence = f"the model is compiled, and runs eagerly while it is probed: {reason}"
    if sentence not in said:
        said.add(sentence)
        warnings.warn(sentence, stacklevel=stacklevel)


def _stance() -> str:
    """Return the stance of torch.compile, for which torch has no function."""
    return str(torch._dynamo.eval_frame._stance.stance)
