"""The steps that the ranks of a distributed run have measured, taken together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.probes.examples.rows import REST, MeasuredBatch, MeasuredStep
from gradlab.probes.ranks import check_same_steps

_ROUNDED = 0.05
"""The relative error of gradients that ranks exchange in few digits."""


@dataclass(frozen=True)
class RankStep:
    """What one rank has measured in a step.

    Attributes:
        measured: The batches of the rank, whose gradients are those of the rank's own loss.
        averaged: The norms of all pieces' gradients after the backward pass, which data parallelism has averaged over
            the ranks by then, shape (pieces,); None if torch.distributed had a single rank or was not initialized.
    """

    measured: MeasuredStep
    averaged: Tensor | None

    def tensors(self) -> list[Tensor]:
        """Return all tensors on the device."""
        return [*self.measured.tensors(), *([] if self.averaged is None else [self.averaged])]

    def filled(self, tensors: Iterator[Tensor]) -> RankStep:
        """Return the same step with other tensors, in the order of `tensors`."""
        return RankStep(self.measured.filled(tensors), None if self.averaged is None else next(tensors))


def merged_steps(by_rank: Sequence[Sequence[RankStep]], reduction: str) -> list[MeasuredStep]:
    """Return the steps with the batches of all ranks, in the order of the ranks.

    The loss is the mean of the R ranks' losses, whose gradient data parallelism gives the parameters. So with mean
    losses an example counts with 1/R of its weight in the loss of its rank; its own gradient, and the mean of all, are
    the same. The norm of the sum over all examples is that of the averaged gradient, times R where losses are sums.

    Args:
        by_rank: The steps of each rank, on the CPU.
        reduction: The reduction of the loss on each rank, `mean` or `sum`.

    Raises:
        GradlabError: If the ranks have measured different steps, or different numbers of batches in a step.
    """
    if len(by_rank) == 1:
        return [step.measured for step in by_rank[0]]
    check_same_steps([[step.measured.step for step in steps] for steps in by_rank])
    return [_merged(steps, reduction) for steps in zip(*by_rank, strict=True)]


def batch_notes(
    by_rank: Sequence[Sequence[RankStep]], steps: Sequence[MeasuredStep], reduction: str, sharded: bool
) -> list[str]:
    """Write the sentences on what is missing, or has a condition, because of the batches of a step.

    Args:
        by_rank: The steps of each rank.
        steps: The same steps of all ranks together.
        reduction: The reduction of the loss, `mean` or `sum`.
        sharded: Whether every rank has a part of the parameters.
    """
    notes = []
    if any(sum(batch.examples for batch in step.batches) == 1 for step in steps):
        notes.append("a single example has no variance: variance, noise scale and mean cosine are missing")
    each = max((len(step.measured.batches) for rank in by_rank for step in rank), default=0)
    if each > 1 and reduction == "mean":
        notes.append(
            f"up to {each} batches a step: example norms are right where the mean loss of each batch was divided by "
            "their number"
        )
    several = [step for step in steps if len(step.batches) > 1]
    if any(len({batch.examples for batch in step.batches}) > 1 for step in several) and reduction == "mean":
        notes.append("batches of one step differ in size: variance, noise scale and diversity are missing")
    if any(step.stale is not None and step.stale > 0 for step in several):
        notes.append(
            "gradients were not 0 when a step began: variance, noise scale and diversity of its batches are missing"
        )
    if len(by_rank) == 1 and sharded and each > 1:
        notes.append(
            "one rank alone does not have the gradients of several batches of sharded parameters together: variance, "
            "noise scale and diversity are missing"
        )
    together = [*zip(*by_rank, strict=True)] if len(by_rank) > 1 else []
    if not all(_are_same(ranks) for ranks in together):
        notes.append(
            "the ranks had different gradients, which DistributedDataParallel would have averaged: variance, noise "
            "scale and diversity are missing"
        )
    elif not all(_are_averaged(ranks) for ranks in together):
        notes.append(
            "the ranks' gradients were larger together than a mean of them is, as where their sum is taken: variance, "
            "noise scale and diversity are missing"
        )
    return notes


def _are_same(steps: Sequence[RankStep]) -> bool:
    """Return whether all ranks had the same gradients in the end."""
    first = steps[0].averaged
    return first is not None and all(step.averaged is not None and torch.equal(step.averaged, first) for step in steps)


def _are_averaged(steps: Sequence[RankStep]) -> bool:
    """Return whether these can be means of the ranks' gradients, as data parallelism takes unless told otherwise.

    A mean of several is at most as long as they are on average, and a sum of many is longer unless they cancel.
    """
    if not _are_same(steps) or steps[0].averaged is None:
        return False
    lengths = torch.zeros_like(steps[0].averaged)
    for batch in (batch for step in steps for batch in step.measured.batches):
        for piece, norm in zip(batch.pieces, batch.sum_norms, strict=True):
            if piece != REST:
                lengths[piece] += norm / len(steps)
    # Gradients may be exchanged in 16 bits; those that the probe has not seen have no length.
    known = lengths > 0
    return bool((steps[0].averaged[known] <= (1 + _ROUNDED) * lengths[known]).all())


def _merged(steps: Sequence[RankStep], reduction: str) -> MeasuredStep:
    """Return one step of several ranks."""
    measured = [step.measured for step in steps]
    if len({len(step.batches) for step in measured}) > 1:
        counts = ", ".join(str(len(step.batches)) for step in measured[:8])
        raise GradlabError(
            f"step {measured[0].step} has different numbers of batches on the ranks ({counts}, in their order): give "
            "every rank as many, or measure one rank alone with local=True"
        )
    share, total = (1 / len(steps), 1.0) if reduction == "mean" else (1.0, float(len(steps)))
    averaged = steps[0].averaged if _are_averaged(steps) else None
    stale = [step.stale for step in measured if step.stale is not None]
    return MeasuredStep(
        measured[0].step,
        [_weighted(batch, share) for step in measured for batch in step.batches],
        None if averaged is None else averaged * total,
        torch.stack(stale).amax() if stale else None,
        torch.cat([step.differences for step in measured], 1),
        [checked for step in measured for checked in step.checked],
        next((step.undone for step in measured if step.undone), ""),
    )


def _weighted(batch: MeasuredBatch, share: float) -> MeasuredBatch:
    """Return a batch whose loss has another weight."""
    return replace(batch, norms=batch.norms * share, sum_norms=batch.sum_norms * share)
