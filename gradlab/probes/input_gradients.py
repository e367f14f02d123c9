"""Gradients of a model's logits with respect to its input (Balduzzi et al. 2017, arXiv:1702.08591), while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradlab.errors import GradlabError, NothingSeen, UsageError
from gradlab.facts import name_of
from gradlab.models import weighted_layers
from gradlab.probes.coverage import description_of
from gradlab.probes.direct_calls import called_within
from gradlab.probes.finder import is_normalization
from gradlab.probes.frozen import refuse_scripted_statistics
from gradlab.probes.hooks import Hook, Probe, in_backward
from gradlab.probes.input_passes import InputPass, refuse_transforms
from gradlab.probes.outputs import detached, refuse_nested
from gradlab.probes.ranks import TIMEOUT, Ranks
from gradlab.probes.streams import wait_for_all
from gradlab.probes.tensor_layout import LayoutWatch, one_of_each
from gradlab.results.input_gradients.result import InputGradientsResult
from gradlab.stats.row_gram import RowGram, fetched_grams

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

NormGrad = Literal["frozen", "full"]

STATISTICS = (
    "relative_effective_rank",
    "relative_effective_rank_raw",
    "mean_cosine",
    "mean_abs_cosine",
    "row_norm_variation",
)
"""The statistics of every batch, by their names in tables."""

TOKEN_STATISTICS = {"token_relative_effective_rank": 0, "token_mean_cosine": 2}
"""Those of the tokens of a sequence, averaged over sequences, with their places in `STATISTICS`."""


class InputGradients(Probe):
    """Computes the gradient of the summed logits with respect to the input for every example the model is run on.

    The sum is used instead of a loss, because the label-dependent signs of cross-entropy would hide how gradients
    correlate. The gradients of each batch are reduced at once to effective rank, cosines and variation of norms.

        with gl.batch_statistics(model), gl.InputGradients(model) as probe:
            for images, _ in gl.batches("cifar10-sample", 100, model=model, images=500):
                model(images)
        probe.result()

    Batch normalization is not changed: it uses running statistics in eval mode, and those of the batch in training
    mode and inside `gl.batch_statistics` (which changes no buffer). The model may be run under `torch.no_grad` or
    `torch.inference_mode`, or trained: outputs, gradients of parameters, buffers and random state are the same as
    without the probe.

    In a distributed run, `result` is a call that every rank makes, and takes the batches of all ranks in their order.
    A batch is what one rank's model was run on in one pass: its statistics are those of that many examples.

    Args:
        model: Any module whose first argument is a batch of images (B, …) and that returns logits (B, …), alone or as
            `logits` of a named output.
        norm_grad: The derivative of batch normalization by batch statistics. `frozen` treats the statistics as
            constants, as the theorems do, so that gradient i is that of example i's own logits. `full` differentiates
            through them, so that examples are coupled, and gradient i is that of the sum of all examples' logits. In
            eval mode there is no difference.
        tokens: Whether inputs are sequences of tokens (B, T, …), so that the similarity of the gradients of a
            sequence's T tokens is measured too, and averaged over sequences; gradients of tokens that are 0 or not
            finite do not count.
        observe: A function that is called with the gradients of each batch, of the input's shape and dtype, instead
            of computing statistics; `gradients.append` keeps them.
        process_group: The ranks to merge; None for all of them, where torch.distributed is initialized.
        local: Whether to measure this rank's batches alone, which the result then says.
        timeout: Seconds for which a result waits for the other ranks, until an error names those that are missing.

    Raises:
        UsageError: If `norm_grad` is neither `frozen` nor `full`.
    """

    in_traces = False

    def __init__(
        self,
        model: nn.Module,
        *,
        norm_grad: NormGrad = "frozen",
        tokens: bool = False,
        observe: Callable[[Tensor], object] | None = None,
        process_group: ProcessGroup | None = None,
        local: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(model, Ranks(process_group, local, timeout))
        self._split = LayoutWatch(self.model)
        if norm_grad not in ("frozen", "full"):
            raise UsageError(f"norm_grad is frozen or full, not {norm_grad!r}")
        self.norm_grad, self.tokens = norm_grad, tokens
        self._grams: list[RowGram] = []
        self._sequences: list[list[RowGram]] = []
        self._left_out = 0
        self._samples: list[dict[str, float]] = []
        self._observe = observe or self._reduce
        # One entry per thread, since each has contexts of its own.
        self._passes: dict[int, InputPass] = {}

    def _attach(self, stack: ExitStack) -> None:
        self._split.attach(stack)
        stack.enter_context(called_within(self.model, self._left_whatever_ends_it))
        stack.enter_context(self.model.register_forward_pre_hook(Hook(self._before)))
        # The hook precedes others, so that of two such probes the one entered last exits first.
        stack.enter_context(self.model.register_forward_hook(Hook(self._after), prepend=True, always_call=True))

    @contextmanager
    def _left_whatever_ends_it(self) -> Iterator[None]:
        """After an exception such as Ctrl-C torch calls no hook, and the caller leaves contexts of its own next."""
        thread = threading.get_ident()
        outer = self._passes.get(thread)
        try:
            yield
        finally:
            if self._passes.get(thread) is not outer:
                self._leave()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if in_backward():
            return None
        if (run := self._passes.get(threading.get_ident())) is not None:
            run.inside += 1
            return None
        refuse_transforms()
        images = args[0] if args else None
        refuse_nested([images] if isinstance(images, Tensor) else [], "input gradients")
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
            given = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            remedy = "give it the inputs with the examples as the first of two dimensions or more"
            if isinstance(images, Tensor) and not images.is_floating_point():
                remedy = "of token ids there is no gradient: probe the part of the model that takes their embeddings"
            raise GradlabError(
                "input gradients need a batch of floating-point inputs as the model's first argument, not "
                f"{given}; {remedy}"
            )
        if self.tokens and images.ndim < 3:
            raise GradlabError(f"gradients of tokens need inputs (B, T, …), not of shape {tuple(images.shape)}")
        if self.norm_grad == "frozen":
            refuse_scripted_statistics(self.model)
        run = InputPass.of(images, frozen=self.norm_grad == "frozen")
        self._passes[threading.get_ident()] = run
        # A copy, since the model's first operation may be in place, and a leaf must not be overwritten.
        return run.source.clone(), *args[1:]

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        run = self._passes.get(threading.get_ident())
        if in_backward() or run is None:
            return None
        if run.inside:
            # The model calls itself.
            run.inside -= 1
            return None
        try:
            # If the model raised an error, there is no output, and the error is being propagated.
            if output is not None:
                self.ranks.remember()
                self._observe(run.gradients(output))
        finally:
            self._leave()
        return None if run.caller_wants_graph or output is None else detached(output)

    def _leave(self) -> None:
        run = self._passes.pop(threading.get_ident(), None)
        if run is not None:
            run.contexts.close()

    def _reduce(self, gradients: Tensor) -> None:
        # As a rank has without any example left.
        if not len(gradients):
            return
        # The statistics take thousands of operations, from which other function modes are spared.
        with torch._C.DisableTorchFunction():
            self._grams.append(RowGram.of(gradients.flatten(1)))
            self._sequences.append([RowGram.of(one.flatten(1)) for one in gradients] if self.tokens else [])
            if gradients.is_cpu:
                self._settle()

    def _settle(self) -> None:
        """Compute the statistics of the batches so far, with one transfer from the device."""
        grams, self._grams = self._grams, []
        batches, self._sequences = self._sequences, []
        if grams and not grams[0].norms.is_cpu:
            wait_for_all(self.model)
        fetched = iter(fetched_grams([*grams, *chain.from_iterable(batches)]))
        here = [next(fetched) for _ in grams]
        for gram, tokens in zip(here, batches, strict=True):
            sequences = [next(fetched) for _ in tokens]
            usable = gram.usable()
            self._left_out += len(gram.norms) - len(usable.norms)
            if len(usable.norms) > 1:
                sample = dict(zip(STATISTICS, usable.statistics().tolist(), strict=True))
                self._samples.append(sample | (_of_tokens(sequences) if sequences else {}))

    @property
    def samples(self) -> list[dict[str, float]]:
        """The statistics of every batch of this process so far, by name."""
        self._settle()
        return [*self._samples]

    @property
    def left_out(self) -> int:
        """The number of gradients of this process that are 0, NaN or infinite, which do not count."""
        self._settle()
        return self._left_out

    def result(self, network: str | None = None) -> InputGradientsResult:
        """Return the measurement so far: one row per statistic, with its mean and standard error over batches.

        Args:
            network: The name of the model in the result; by default its name from `gl.build`, or its class.

        Raises:
            GradlabError: If no batch of at least two examples was seen.
        """
        own = (self.samples, self.left_out), self._split.layout
        every = self.ranks.gather(own, "InputGradients.result()")
        by_rank = one_of_each([found for found, _ in every], [layout for _, layout in every], self.ranks)
        samples = [sample for found, _ in by_rank for sample in found]
        left_out = sum(count for _, count in by_rank)
        if not samples:
            raise NothingSeen(
                "the probe saw no batch of two examples or more with finite gradients: run the model inside the "
                "`with` block, called as model(images)"
            )
        name = network or name_of(self.model)
        notes = [*([left_out_note(name, left_out)] if left_out else []), *self.ranks.notes()]
        return InputGradientsResult.from_samples(
            name,
            [samples],
            depth=len(weighted_layers(self.model)),
            norm=normalization_kind(self.model),
            bn="as run",
            norm_grad=self.norm_grad,
            notes=notes,
            facts={"description": description_of(self.model)},
        )


def _of_tokens(sequences: list[RowGram]) -> dict[str, float]:
    """The statistics of the tokens of a sequence, averaged over sequences; NaN if none has two tokens that count."""
    usable = [gram.usable() for gram in sequences]
    found = torch.stack([gram.statistics() for gram in usable if len(gram.norms) > 1] or [torch.full((5,), torch.nan)])
    means = found.mean(0).tolist()
    return {name: means[place] for name, place in TOKEN_STATISTICS.items()}


def gradient_statistics(rows: Tensor) -> Tensor:
    """Compute the statistics of one batch's input gradients, in the order of `STATISTICS`.

    Args:
        rows: Finite and nonzero gradients of shape (B, p), one per row, with B at least 2.

    Returns:
        A float64 tensor of shape (5,), on the device of the gradients.
    """
    return RowGram.of(rows).statistics()


def normalization_kind(model: nn.Module) -> str:
    """Name a model's normalization: `bn`, `none`, or the class of its first normalization in lower case."""
    kinds = [type(module).__name__.lower() for module in model.modules() if is_normalization(module)]
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        return "bn"
    return kinds[0] if kinds else "none"


def left_out_note(network: str, count: int) -> str:
    """Write the sentence on examples whose gradient cannot be measured."""
    return f"{network}: {count} input gradients are 0, NaN or infinite, and left out"
