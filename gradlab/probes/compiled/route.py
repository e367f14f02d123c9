"""The way that each pass of a compiled model takes: in compiled code where that is proved right, otherwise eagerly."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradlab.probes.compiled.compiled_pass import CompiledPass
from gradlab.probes.compiled.discovery import Discovery, Plan
from gradlab.probes.compiled.entry import CannotCompile, Entry, entry_of
from gradlab.probes.compiled.marks import marks_of, watch_marks
from gradlab.probes.finder import Observer, ResponseFinder, Site
from gradlab.probes.hooks import EAGERLY, unwrap
from gradlab.probes.pass_kinds import form_of, modes_of
from gradlab.probes.passes import check_thread
from gradlab.probes.site_moments import SiteMoments
from gradlab.probes.targets import Targets, replaced
from gradlab.stats.custom_ops import WIDTH, row_moments

_Kind = tuple[object, ...]

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
    """

    def __init__(self, model: nn.Module, entry: Entry, targets: Targets, observer: Observer) -> None:
        self.model, self.entry, self.targets = model, entry, targets
        self.discovery = Discovery(observer)
        self.finder = ResponseFinder(model, targets, self.discovery)
        self.marks = marks_of(model, targets)
        self._plans: dict[_Kind, Plan | None] = {}
        # What eager passes of several shapes have shown, by the rest of their kind.
        self._shown: dict[_Kind, list[Plan | None]] = {}
        self._passes: dict[Plan, CompiledPass] = {}
        self._own = range(0)
        self._forbidden = False
        self._eager = 0
        self._thread: int | None = None
        self._said: set[str] = set()

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
        if self._thread is not None:
            check_thread(self.model, self._thread)
        self._thread = threading.get_ident()
        try:
            return self._run(args, kwargs)
        finally:
            self._thread = None

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A model whose sizes are symbols is compiled once for all of them.
        kind = self._kind(args, kwargs, sizes=not self.entry.dynamic)
        shown = self._shown.setdefault(self._kind(args, kwargs, sizes=False), [])
        same = shown[0] if len(shown) > 1 and len(set(shown)) == 1 else None
        plan = self._plans.get(kind, same)
        if plan is not None and (compiled := self._compiled(plan)) is not None:
            try:
                return compiled(args, kwargs)
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

    def _kind(self, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: bool) -> _Kind:
        return modes_of(self.model), *(form_of(given, shapes=sizes, numbers=sizes) for given in (args, kwargs))

    def _compiled(self, plan: Plan) -> CompiledPass | None:
        """Return what runs passes of a plan, or None while hooks are in force that must run as they are."""
        if self._forbidden or any(getattr(torch.nn.modules.module, table) for table in _GLOBAL_HOOKS):
            _say(AROUND, self._said, stacklevel=6)
            return None
        if replaced(self.model, self.targets):
            _say("a layer was replaced while the probe was attached", self._said, stacklevel=6)
            return None
        if plan not in self._passes:
            device = next(iter({p.device for p in self.model.parameters()}))
            self._passes[plan] = CompiledPass(self.model, self.entry, plan, self.marks, self.targets, device)
        found = self._passes[plan]
        if not found.traced.prepare(self._own):
            _say(AROUND, self._said, stacklevel=6)
            return None
        return found

    def _give_up(self, kind: _Kind, reason: CannotCompile) -> None:
        self._plans[kind] = None
        _say(str(reason), self._said, stacklevel=6)

    def merged_with(self, own: Mapping[Site, SiteMoments]) -> dict[Site, SiteMoments]:
        """Return the moments of eager passes merged with those of passes in compiled code, copied to the CPU.

        A site that another kind of pass has normalized was not measured where it was not, as in eager passes.
        """
        merged = dict(own)
        for plan, passes in self._passes.items():
            rows = passes.rows.cpu() if passes.count else ()
            for (site, _), row in zip(plan.places, rows, strict=False):
                known = merged[site]
                if known.norm is not None and site not in dict(plan.norms):
                    merged[site] = replace(known, unseen=known.unseen + passes.count)
                else:
                    added = SiteMoments([row_moments(row)], row[WIDTH - 1].item(), known.target, known.norm, 0)
                    merged[site] = known.merge(added)
        return merged

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


def compiled_route(model: nn.Module, targets: Targets, observer: Observer) -> CompiledRoute | None:
    """Return the route of a model that was compiled as a whole, or None if it is not compiled or cannot take it.

    Args:
        model: The model as the probe was given it.
        targets: What is measured.
        observer: What measures eager passes.
    """
    inner = unwrap(model)
    try:
        entry = entry_of(model)
    except CannotCompile:
        return None
    parameters = list(inner.parameters())
    devices = {parameter.device for parameter in parameters}
    if len(devices) != 1 or "mps" in {device.type for device in devices}:
        return None
    # Tensor parallelism and sharding.
    if any(hasattr(parameter, "placements") for parameter in parameters):
        return None
    return CompiledRoute(inner, entry, targets, observer)


def _say(reason: str, said: set[str], stacklevel: int) -> None:
    """Warn of a reason once."""
    sentence = f"the model is compiled, and runs eagerly while it is probed: {reason}"
    if sentence not in said:
        said.add(sentence)
        warnings.warn(sentence, stacklevel=stacklevel)


def _stance() -> str:
    """Return the stance of torch.compile, for which torch has no function."""
    return str(torch._dynamo.eval_frame._stance.stance)
