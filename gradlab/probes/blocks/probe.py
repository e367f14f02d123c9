"""The signal and its gradient by block (Brock et al. 2021, arXiv:2101.08692), measured in any model while it runs."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradlab.errors import NothingSeen
from gradlab.facts import name_of
from gradlab.probes.backward_passes import BackwardPasses
from gradlab.probes.blocks.finder import BlockFinder, of_parts_beside, of_pyramids
from gradlab.probes.blocks.merging import merged_signals, sendable
from gradlab.probes.blocks.naming import branch_names
from gradlab.probes.blocks.readings import Found, Reading
from gradlab.probes.blocks.sites import Signal, Site, channel_mean_square, channel_variance, cosine
from gradlab.probes.coverage import coverage_of_modules
from gradlab.probes.execution_places import in_order
from gradlab.probes.forward_watch import Watch
from gradlab.probes.hooks import Probe
from gradlab.probes.ranks import TIMEOUT, Ranks, uneven_notes
from gradlab.probes.streams import wait_for_all
from gradlab.probes.tensor_layout import LayoutWatch
from gradlab.results.signal.result import SignalResult
from gradlab.stats import WELL_CONDITIONED, centred_moments, fast_moments
from gradlab.stats.attention import token_cosine, token_participation
from gradlab.stats.precision import widened

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class BlockSignal(Probe):
    """Measures stream and branches of every residual block, and their gradients, over all data passed to the model.

        with gl.BlockSignal(model) as probe:
            for images, labels in loader:
                loss_function(model(images), labels).backward()
        probe.result().plot()

    Blocks are found while the model runs (see `BlockFinder`): they are additions of a signal, the stream, and a
    function of it, the branch. In a model without such additions, blocks are the repeated parts, which have only a
    stream. The following statistics are measured, where samples are examples and positions (tokens), and channels are
    in the dimension that the layers use:

    - std: the square root of the average channel variance, which is the variance of each channel over samples, averaged
      over channels; and mean²: the average squared channel mean (Brock et al. 2021, §3). They are measured for the
      stream after the addition (the block's output, after normalization and activation if these precede the next
      block), for the stream before it, and for the branch as it is added, after every scale, gate and dropout.
    - ratio: the ratio of the average channel variance of the branch to that of the stream to which it is added.
    - cosine: the cosine between the branch and the stream to which it is added, as two vectors of all elements of all
      passes, without centring.
    - the RMS, over all elements, of the gradient of the loss with respect to the stream after the addition and to the
      branch, as computed by autograd for the loss without rescaling. Without a backward pass there are none.

    No activations are stored, and nothing waits for the device until the result is requested. Non-finite values are
    counted and left out. A branch that is skipped in a pass, as by stochastic depth, is measured in the other passes.
    A forward pass that ends in an exception does not count, and a backward pass that does adds no gradients.

    With `tokens`, two statistics are computed from the first examples of every batch: token_rank, the participation
    ratio (Σλ)²/Σλ² of the eigenvalues of x·xᵀ for the tokens x after the addition, which is 1 if all are parallel (rank
    collapse, Dong et al. 2021, arXiv:2103.03404); and token_cosine, the mean cosine between two tokens. The positions
    of an image are tokens.

    In a distributed run, every rank must call `result`. It has the moments over the examples of all ranks, merged in
    float64, and the gradients of the mean of the ranks' losses (see `ResponseGradients`).

    Args:
        model: Any `torch.nn.Module`.
        exact: Use centred float64 moments, which are exact for any data and several times slower. The default has a
            relative error below 1e-6 if the mean² of the channels is at most 100 times their variance, and the result
            names the blocks for which it is not.
        tokens: Also measure the similarity of tokens.
        process_group: The ranks to merge; None merges all ranks if torch.distributed is initialized.
        local: Whether to measure only the examples of this rank, which the result then notes.
        timeout: The time in seconds that a result waits for the other ranks before an error names the missing ones.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        exact: bool = False,
        tokens: bool = False,
        process_group: ProcessGroup | None = None,
        local: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(model, Ranks(process_group, local, timeout))
        self.exact, self.tokens = exact, tokens
        self._signals: dict[Site, Signal] = {}
        self._order: list[Site] = []
        self._backward = BackwardPasses(self.model)
        self._split = LayoutWatch(self.model)
        self._finder = BlockFinder(self.model, self, self._split)

    def _attach(self, stack: ExitStack) -> None:
        self._finder.attach(stack)

    def read(self, value: Tensor, channel: int, watched: Tensor | None, behind: bool) -> Reading:
        """See `Reader`."""
        reading = Reading((centred_moments if self.exact else fast_moments)(value, channel))
        if watched is not None and watched.requires_grad:
            reading.watch = Watch(watched, None, self._backward.counts, self._backward.follow)
        if self.tokens and behind and value.ndim > 2:
            x = value.detach()[:EXAMPLES].movedim(channel, -1).flatten(1, -2)
            statistics = torch.stack((token_participation(x), token_cosine(x))).sum(1)
            reading.tokens = torch.cat((statistics, torch.full_like(statistics[:1], len(x))))
        return reading

    def finish(self, found: list[Found]) -> None:
        """See `Reader`."""
        self.ranks.remember()
        if found and found[0].branch is not None and any(s.branch is None for s in self._signals.values()):
            # Before the first addition, repeated parts were taken for blocks.
            self._signals, self._order = {}, []
        self._undo_failed()
        for signal in self._signals.values():
            signal.behind_gradient.settle()
            signal.branch_gradient.settle()
        calls: Counter[tuple[str, str, str]] = Counter()
        seen = []
        for each in found:
            place = each.block, "" if each.branch is None else each.branch.module, each.place
            calls[place] += 1
            seen.append(site := Site(*place, calls[place]))
            parts = self._split.layout.parts
            parts[site] = parts.get(site, "") or each.split
            self._signals.setdefault(site, Signal()).update(each)
        self._order = in_order(self._order, seen)

    def _undo_failed(self) -> None:
        """Forget what came of backward passes that an exception has ended."""
        if failed := self._backward.failed():
            for signal in self._signals.values():
                signal.behind_gradient.undo(failed)
                signal.branch_gradient.undo(failed)

    def result(self, network: str | None = None) -> SignalResult:
        """The measurement so far, with one row per block and branch in order of execution.

        Args:
            network: The name of the model; by default its name from `gl.build`, or else its class.

        Raises:
            GradlabError: If no block was found.
        """
        wait_for_all(self.model)
        self._undo_failed()
        own = self._signals if len(self.ranks.numbers) == 1 else sendable(self._signals, self._order)
        seen = (
            sorted(self._finder.unseen),
            sorted(self._finder.pyramids),
            self._finder.beside,
            bool(self._finder.recomputed),
        )
        sent = {site: own[site] for site in self._order}, self._split.layout, seen
        told = self.ranks.gather(sent, "BlockSignal.result()")
        by_rank = [found for found, *_ in told]
        signals = by_rank[0] if len(told) == 1 else merged_signals(by_rank, [its for _, its, _ in told], self.ranks)
        unseen = sorted({name for *_, (names, *_) in told for name in names})
        pyramids = sorted({name for *_, (_, names, *_) in told for name in names})
        beside = list(dict.fromkeys(name for *_, (_, _, names, _) in told for name in names))
        recomputed = any(again for *_, (*_, again) in told)
        if not signals:
            raise NothingSeen(
                f"no block of {type(self.model).__name__} was seen: run the model inside the `with` block, called as "
                "model(x), and not inside a compiled function; a block is an addition of a signal and a function of "
                "it (a concatenation, as in DenseNet, is none), or one of the like parts of an nn.Sequential or "
                "nn.ModuleList"
            )
        values = torch.stack([_values(signal, self.tokens) for signal in signals.values()]).cpu().tolist()
        names, blocks = _branch_names(signals), list(dict.fromkeys((site.block, site.call) for site in signals))
        rows: list[dict[str, Any]] = [
            {
                "block": site.block,
                "branch": names[site],
                "index": blocks.index((site.block, site.call)) + 1,
                "call": site.call,
                **dict(zip(values_of(self.tokens), row, strict=True)),
            }
            for site, row in zip(signals, values, strict=True)
        ]
        name = network or name_of(self.model)
        uneven = uneven_notes([{site: site.block for site in seen} for seen in by_rank], self.ranks)
        notes = [*self._notes(rows, signals, unseen, recomputed), *of_pyramids(pyramids), *of_parts_beside(beside)]
        coverage = coverage_of_modules(self.model, {site.block for site in signals}, OUTSIDE)
        facts = {"coverage": coverage.as_record(), **({"chain": False} if beside else {})}
        return SignalResult.from_rows(name, rows, [*notes, *self.ranks.notes(), *uneven], facts)

    def _notes(
        self, rows: list[dict[str, Any]], signals: dict[Site, Signal], unseen: list[str], recomputed: bool
    ) -> list[str]:
        """The notes on this measurement."""
        notes = []
        if all(signal.branch is None for signal in signals.values()):
            notes.append("no addition of a signal and a function of it was seen: the blocks are the parts that repeat")
        for row, (site, signal) in zip(rows, signals.items(), strict=True):
            where = " ".join(filter(None, (site.block, row["branch"])))
            if row["non_finite"]:
                notes.append(f"{where}: {row['non_finite']:,.0f} values are NaN or infinite and left out")
            stream, branch = row["stream_mean_square"], row["branch_mean_square"]
            far = stream > (WELL_CONDITIONED * row["stream_std"]) ** 2
            if not self.exact and (far or branch > (WELL_CONDITIONED * row["branch_std"]) ** 2):
                notes.append(
                    f"{where}: the channels' means are more than {WELL_CONDITIONED:.0f} times their std, too large for "
                    "sums of squares; exact=True (--exact) measures it accurately"
                )
            lost = signal.behind_gradient.lost or signal.branch_gradient.lost
            if lost:
                notes.append(f"{where}: its gradients are missing ({lost})")
        if unseen:
            notes.append(
                f"{', '.join(unseen[:3])}{', …' if len(unseen) > 3 else ''}: takes the output of a scripted module or "
                "custom autograd function, which cannot be traced; blocks whose branches pass through it are not found"
            )
        if recomputed and any(math.isnan(row["stream_grad_rms"]) for row in rows):
            notes.append(
                "activation checkpointing leaves blocks without a graph, so that their gradients are missing; "
                "checkpoint with use_reentrant=False"
            )
        return notes


def _branch_names(signals: dict[Site, Signal]) -> dict[Site, str]:
    """The name of the branch of each site."""
    names: dict[Site, str] = {}
    for block in {site.block for site in signals}:
        branches: dict[tuple[str, str], bool] = {
            (site.module, site.place): signal.attends for site, signal in signals.items() if site.block == block
        }
        found = branch_names(
            [(_within(block, module), _within(block, place), attends) for (module, place), attends in branches.items()]
        )
        called = dict(zip(branches, found, strict=True))
        names |= {site: called[site.module, site.place] for site in signals if site.block == block}
    return names


def _within(block: str, module: str) -> str:
    """The name of a module within a block."""
    return module.removeprefix(block).removeprefix(".")


VALUES = (
    "stream_std",
    "stream_mean_square",
    "branch_std",
    "branch_mean_square",
    "ratio",
    "cosine",
    "stream_grad_rms",
    "branch_grad_rms",
    "input_std",
    "input_mean_square",
    "stream_total_std",
    "channels",
    "count",
    "non_finite",
)
"""The columns of the statistics of every site."""

TOKENS = ("token_rank", "token_cosine")
"""The columns of the statistics of tokens."""

OUTSIDE = "outside of blocks"
"""The reason why a parameter is in none of the blocks."""

EXAMPLES = 8
"""The number of examples per batch in which tokens are compared."""


def values_of(tokens: bool) -> tuple[str, ...]:
    """The columns of the measurement, with or without the statistics of tokens."""
    return VALUES + TOKENS if tokens else VALUES


def _values(signal: Signal, tokens: bool) -> Tensor:
    """The values of the columns `values_of` as one tensor, with NaN for missing values."""
    behind, stream, branch = signal.behind, signal.stream, signal.branch
    assert behind is not None
    nothing = torch.full_like(behind.count.sum(), math.nan)
    gradients = [
        nothing if square is None else square.sqrt().to(nothing)
        for square in (signal.behind_gradient.mean_square(), signal.branch_gradient.mean_square())
    ]
    of_branch, of_stream = [nothing, nothing], [nothing, nothing]
    ratio = alike = nothing
    non_finite = behind.non_finite.sum()
    if stream is not None and branch is not None and signal.product is not None:
        of_branch = [channel_variance(branch).sqrt(), channel_mean_square(branch)]
        of_stream = [channel_variance(stream).sqrt(), channel_mean_square(stream)]
        ratio = channel_variance(branch) / channel_variance(stream)
        alike = cosine(widened(signal.product), stream, branch).to(nothing)
        non_finite = non_finite + branch.non_finite.sum()
    output = [channel_variance(behind).sqrt(), channel_mean_square(behind)]
    counts = [torch.full_like(nothing, len(behind.count)), behind.count.sum(), non_finite]
    total = behind.pooled().std
    values = [*output, *of_branch, ratio, alike, *gradients, *of_stream, total, *counts]
    if tokens:
        sums = signal.tokens
        values += [nothing] * len(TOKENS) if sums is None else [sums[0] / sums[2], sums[1] / sums[2]]
    return torch.stack(values)
