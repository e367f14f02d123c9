"""Entropy and largest logit of attention by head and layer, measured in any model while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradlab.errors import NothingSeen, UsageError
from gradlab.facts import name_of
from gradlab.probes.applications import leave
from gradlab.probes.attention.finder import AttentionFinder
from gradlab.probes.attention.merging import Site, merged_rows
from gradlab.probes.coverage import coverage_of_modules
from gradlab.probes.execution_places import in_order
from gradlab.probes.hooks import Probe
from gradlab.probes.passes import Passes
from gradlab.probes.ranks import TIMEOUT, Ranks, uneven_notes
from gradlab.probes.split_signals import Split
from gradlab.probes.streams import wait_for_all
from gradlab.probes.tensor_layout import LayoutWatch
from gradlab.results.attention.result import AttentionResult
from gradlab.stats.attention import AttentionRows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


WITHOUT = "without attention"
"""The reason why a parameter is in no module that attends."""


class AttentionStatistics(Probe):
    """Measures the entropy and the largest logit of attention by head, over all data passed to the model.

        with gl.AttentionStatistics(model) as probe, torch.no_grad():
            model(tokens)
        probe.result().plot()

    Attention is found while the model runs: `scaled_dot_product_attention`, as models and `nn.MultiheadAttention` call
    it, and any softmax over keys whose result weighs values. Fused attention keeps its kernel. The statistic is
    computed from queries and keys with the same mask and scale, for evenly spaced rows of each example, or from the
    logits if the model computes them. A row in which every key is masked, as for some padding tokens, does not count.
    Weights are taken before dropout.

    - entropy: −Σ p·log p of the weights p of a row, in nats, averaged over rows and examples. Near 0 a head attends to
      single tokens ("entropy collapse", Zhai et al. 2023, arXiv:2303.06296).
    - relative_entropy: the ratio of the entropy to that of equal weights on all unmasked keys, both summed over rows.
      It is 1 if a head averages over all keys that it sees.
    - largest_logit: the largest product of query and key, after scale and mask, over the rows.

    In a distributed run, `result` is a call that every rank makes, and is over the examples of all ranks. Where tensor
    parallelism gives ranks heads of their own, or queries, these are joined.

    Args:
        model: Any `torch.nn.Module`.
        rows: The number of rows to take from each attention; None takes all.
        process_group: The ranks to merge; None for all of them, where torch.distributed is initialized.
        local: Whether to measure this rank's examples alone, which the result then says.
        timeout: Seconds for which a result waits for the other ranks, until an error names those that are missing.

    Raises:
        UsageError: If the number of rows is less than 1.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: int | None = 64,
        *,
        process_group: ProcessGroup | None = None,
        local: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(model, Ranks(process_group, local, timeout))
        if rows is not None and rows < 1:
            raise UsageError(f"rows is the number of rows of attention to take, at least 1, or None; got {rows}")
        self._sites: dict[Site, AttentionRows] = {}
        self._order: list[Site] = []
        self._seen: dict[Site, AttentionRows] = {}
        self._calls: Counter[str] = Counter()
        self._split = LayoutWatch(self.model)
        self._finder = AttentionFinder(self, rows, self._split.signals)

    def _attach(self, stack: ExitStack) -> None:
        self._split.attach(stack)
        modules = {name: module for name, module in self.model.named_modules() if name}
        self._passes = Passes(self.model, modules, self._begin, self._end)
        self._passes.attach(stack, {})
        stack.callback(leave, self._finder)

    def _begin(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen, self._calls = {}, Counter()
        self._finder.__enter__()

    def _end(self, whole: bool) -> None:
        self.ranks.remember()
        leave(self._finder)
        self._finder.forget()
        if whole:
            self._order = in_order(self._order, self._seen)
            for site, rows in self._seen.items():
                self._sites[site] = self._sites[site].merge(rows) if site in self._sites else rows

    def attended(self, rows: AttentionRows, split: Split) -> None:
        """See `Listener`."""
        layer = self._passes.innermost
        self._calls[layer] += 1
        site = Site(layer, self._calls[layer])
        self._seen[site] = rows
        parts = self._split.layout.parts
        parts[site] = parts.get(site, "") or split

    def heads(self) -> int | None:
        """See `Listener`."""
        module = self.model.get_submodule(self._passes.innermost)
        return module.num_heads if isinstance(module, nn.MultiheadAttention) else None

    def _own(self) -> dict[Site, Tensor]:
        """What this rank has seen of each site, (H, 4), copied from the device at once."""
        wait_for_all(self.model)
        sites = [self._sites[site] for site in self._order]
        if not sites:
            return {}
        columns = [torch.stack([found.entropy, found.uniform, found.rows, found.largest], 1) for found in sites]
        there = torch.cat([found.to(columns[0].device) for found in columns]).cpu()
        return dict(zip(self._order, there.split([len(found) for found in columns]), strict=True))

    def result(self, network: str | None = None) -> AttentionResult:
        """Return the measurement so far, with one row per layer, call and head in order of execution.

        Args:
            network: The name of the model; by default its name from `gl.build`, or else its class.

        Raises:
            GradlabError: If no attention was found.
        """
        told = self.ranks.gather((self._own(), self._split.layout), "AttentionStatistics.result()")
        by_rank = [found for found, _ in told]
        if not any(by_rank):
            raise NothingSeen(
                f"no attention of {type(self.model).__name__} was seen: run the model inside the `with` block; kernels "
                "that no function of torch calls cannot be seen (with transformers, attn_implementation='sdpa' can)"
            )
        rows: list[dict[str, Any]] = []
        merged = merged_rows(by_rank, [layout for _, layout in told], self.ranks)
        for index, (site, heads) in enumerate(merged.items(), 1):
            for head, (entropy, uniform, count, largest) in enumerate(heads.tolist()):
                rows.append(
                    {
                        "layer": site.layer,
                        "index": index,
                        "head": head,
                        "entropy": entropy / count if count else float("nan"),
                        "relative_entropy": entropy / uniform if uniform else float("nan"),
                        "largest_logit": largest,
                        "rows": int(count),
                        "call": site.call,
                    }
                )
        name = network or name_of(self.model)
        uneven = uneven_notes([{site: site.layer for site in found} for found in by_rank], self.ranks)
        coverage = coverage_of_modules(self.model, {row["layer"] for row in rows}, WITHOUT)
        notes = [*masked_notes(rows), *self.ranks.notes(), *uneven]
        return AttentionResult.from_rows(name, rows, notes, {"coverage": coverage.as_record()})


def masked_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each layer with heads of which every row was masked."""
    masked: dict[str, list[str]] = {}
    for row in rows:
        if not row["rows"]:
            masked.setdefault(row["layer"], []).append(str(row["head"]))
    return [
        f"{layer}: heads {', '.join(heads)} are not measured, since a mask hides all keys from every row"
        for layer, heads in masked.items()
    ]
