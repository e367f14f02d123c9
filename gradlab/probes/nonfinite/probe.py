"""Watches every operation of a model's passes for the first non-finite value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.variable import Variable
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradlab.probes.hooks import Probe, in_backward
from gradlab.probes.identity import storage_key
from gradlab.probes.nonfinite.calls import Calls
from gradlab.probes.nonfinite.memory import Memory
from gradlab.probes.nonfinite.origin import Origin, described
from gradlab.probes.nonfinite.recorder import Recorder
from gradlab.probes.nonfinite.tracing import earliest, faults
from gradlab.probes.nonfinite.values import Operation, Source, Value, is_measurable, settle
from gradlab.probes.outputs import measurable, unwrapped
from gradlab.probes.ranks import Ranks
from gradlab.probes.streams import wait_for_all


class NonfiniteOrigin(Probe):
    """Finds the first non-finite value that reaches a loss, a gradient or a weight.

        with gl.NonfiniteOrigin(model) as probe:
            for images, labels in loader:
                ...                       # an unchanged training step
                if probe.found:
                    break
        print(probe.origin())

    The probe examines the output of every operation of the forward pass, the backward pass and the optimizer, so that a
    step takes several times as long. Only the search at the end of a step, in the optimizer's hook, waits for the
    device. A value that becomes finite again is not a fault, such as the −inf of masked attention, nor is an overflow
    for which a GradScaler skips the step.

    Args:
        model: Any `torch.nn.Module`.

    Attributes:
        steps: The number of finite optimizer steps so far. Set it when training resumes.
        found: Whether an optimizer step was not finite; nothing is recorded after it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, Ranks())
        self.steps = 0
        self._sources: dict[int, Source] = {}
        self._memory = Memory(lambda tensor: self._sources.get(storage_key(tensor), Source("input")))
        self._calls = Calls(self.model, self._before, self._after)
        self._recorder = Recorder(self._calls, self._memory, self._began)
        self._outputs: list[Value] = []
        self._losses: list[Operation] = []
        self._origin: Origin | None = None
        # Without an optimizer, as for a single batch, there are no steps to count.
        self._has_stepped = False
        # What is to be finite after the steps that are made within the backward pass under way.
        self._within: list[Value] = []

    @property
    def found(self) -> bool:
        """Whether an optimizer step was not finite."""
        return self._origin is not None

    def origin(self) -> Origin | None:
        """The origin of the first non-finite value.

        It is searched in the first optimizer step that was not finite, or else in the passes since the last step: in
        loss and gradients, or without a backward pass in the model's output, where deliberate infinities are allowed.

        Returns:
            The origin; None if all values are finite.
        """
        return self._origin or self._search([], self._unskipped())

    def trace(self, outputs: Iterable[Tensor], gradients: Iterable[Tensor], *, masks: bool = False) -> Origin | None:
        """The origin of the first non-finite value that reaches one of the given tensors.

        Args:
            outputs: The results of the forward pass: a loss, or outputs of the model.
            gradients: The results of the backward pass.
            masks: Whether outputs may contain infinities that were inserted deliberately.

        Returns:
            The origin; None if the tensors are finite.
        """
        return self._search(self._read(outputs), self._read(gradients), masks)

    def name_inputs(self, batch: Any) -> None:
        """Name the tensors of a batch by their place in it."""
        for place, tensor in measurable(batch):
            self._sources.setdefault(storage_key(tensor), Source("input", place))

    def _attach(self, stack: ExitStack) -> None:
        self._name_own()
        self._calls.attach(stack)
        for handle in (
            register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: self._steps()),
            register_optimizer_step_post_hook(lambda optimizer, args, kwargs: self._stepped(optimizer)),
        ):
            stack.callback(handle.remove)
        self._recorder.stepping = None
        stack.enter_context(self._recorder)

    def _name_own(self) -> None:
        """Register the memory of weights and buffers, which `torch.func.functional_call` replaces."""
        own: dict[int, Source] = {}
        for prefix, module in self.model.named_modules():
            for kind, tensors in (("weight", module._parameters), ("buffer", module._buffers)):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        own.setdefault(storage_key(tensor), Source(kind, f"{prefix}.{name}" if prefix else name))
        self._sources |= own

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._recorder.stepping is not None:
            # A closure computes the loss again: what its passes have shown leads to the step.
            self._recorder.updating = False
        elif self._recorder.updating and not self._recorder.paused:
            # A new forward pass without an optimizer step: gradients accumulate, or a GradScaler has skipped the step;
            # or an exception has ended the backward pass within which steps were made.
            self._close([*self._within, *self._unskipped()])
        self._name_own()

    def _after(self, output: Any) -> None:
        self._outputs = self._read(tensor for _, tensor in measurable(output))

    def _began(self, operation: Operation | None) -> None:
        if operation is not None:
            self._losses.append(operation)

    def _steps(self) -> None:
        self._recorder.stepping = torch._C._current_graph_task_id()

    def _stepped(self, optimizer: Optimizer) -> None:
        self._recorder.stepping = None
        own = {id(parameter) for parameter in self.model.parameters()}
        parameters = [p for group in optimizer.param_groups for p in group["params"] if id(p) in own]
        if not parameters or self._recorder.paused:
            return
        skipped: Tensor | None = getattr(optimizer, "found_inf", None)
        if skipped is not None and skipped.item():
            # To a fused optimizer a GradScaler leaves it to skip a step.
            self._close([])
        elif in_backward():
            # Gradients that the pass has yet to compute lead to the same step.
            if not self._within:
                Variable._execution_engine.queue_callback(self._end_step)
            # The step is one of many, and its gradients may be cleared before the pass ends.
            self._within += self._read([*(p.grad for p in parameters if p.grad is not None), *parameters])
        else:
            self._within = self._read(parameters)
            self._end_step()

    def _end_step(self) -> None:
        """Search what has led to a step."""
        self._has_stepped = True
        self._close([*self._within, *self._gradients()])
        self.steps += not self.found

    def _close(self, sinks: Sequence[Value]) -> None:
        """Search the recorded operations and forget them."""
        self._origin = self._search([], sinks) if sinks else None
        self._memory.clear()
        self._calls.clear()
        self._outputs, self._losses, self._within = [], [], []
        self._recorder.updating, self._recorder.paused = False, self.found

    def _unskipped(self) -> list[Value]:
        """The gradients of an unfinished step; none once a GradScaler has checked them, as it skips overflows."""
        return [] if self._recorder.scaled else self._gradients()

    def _gradients(self) -> list[Value]:
        return self._read(p.grad for p in self.model.parameters() if p.grad is not None)

    def _read(self, tensors: Iterable[Tensor]) -> list[Value]:
        with self._recorder.pausing():
            return [self._memory.read(unwrapped(tensor)) for tensor in tensors if is_measurable(tensor)]

    def _search(self, outputs: Sequence[Value], gradients: Sequence[Value], masks: bool = False) -> Origin | None:
        wait_for_all(self.model)
        values = self._memory.values
        with self._recorder.pausing():
            settle(values)
        found = faults(values)
        if not outputs:
            outputs, masks = [value for value in values if value.maker in self._losses], False
        if not outputs:
            outputs, masks = self._outputs, True
        reached = [found[value] for value in outputs if value in found]
        reached = [fault for fault in reached if not (masks and fault.on_purpose)]
        first = earliest([*reached, *(found[value] for value in gradients if value in found)])
        if first is None:
            return None
        with self._recorder.pausing():
            return described(first, hidden=not reached, step=self.steps if self._has_stepped else None)
