"""Moments of responses in compiled code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradlab.probes.compiled.compiled_pass import CompiledPass
from gradlab.probes.compiled.discovery import Plan
from gradlab.probes.compiled.entry import Entry
from gradlab.probes.compiled.proof import MOMENTS, Proof
from gradlab.probes.compiled.route import CompiledRoute, usable_entry
from gradlab.probes.finder import Observer, Site
from gradlab.probes.hooks import unwrap
from gradlab.probes.site_moments import SiteMoments
from gradlab.probes.targets import Targets
from gradlab.stats.custom_ops import WIDTH, add_moments, row_moments


class MomentPass(CompiledPass):
    """Passes in which every response adds to a row of moments.

    Args:
        model: The model, not compiled.
        entry: How it was compiled.
        proof: Holds what is traced against the plan.
        device: The device of the responses.

    Attributes:
        rows: The moments of `Plan.passings`; see `gradlab.stats.custom_ops`.
    """

    def __init__(self, model: nn.Module, entry: Entry, proof: Proof, device: torch.device) -> None:
        with torch.inference_mode(False):
            rows = self.rows = torch.zeros(len(proof.plan.passings), WIDTH, dtype=torch.float64, device=device)

        def marked(number: int, tensor: Tensor) -> None:
            add_moments(rows, number, tensor.detach())

        super().__init__(model, entry, proof, marked)

    def _begin(self) -> Callable[[], None]:
        before = self.rows.clone()

        def undo() -> None:
            self.rows.copy_(before)

        return undo


class MomentRoute(CompiledRoute):
    """The route of a probe that measures the moments of responses."""

    operation = MOMENTS
    _passes: dict[Plan, MomentPass]  # type: ignore[assignment]

    def _make(self, proof: Proof) -> MomentPass:
        return MomentPass(self.model, self.entry, proof, self.device)

    def merged_with(self, own: Mapping[Site, SiteMoments]) -> dict[Site, SiteMoments]:
        """Return the moments of eager passes merged with those of passes in compiled code, copied to the CPU.

        A site that another kind of pass has normalized was not measured where it was not, as in eager passes.
        """
        merged = dict(own)
        for plan, passes in self._passes.items():
            if not passes.count:
                continue
            rows = dict(zip(plan.passings, passes.rows.cpu(), strict=True))
            for site, passing in plan.places:
                known = merged[site]
                if known.norm is not None and site not in dict(plan.norms):
                    merged[site] = replace(known, unseen=known.unseen + passes.count)
                else:
                    row = rows[passing]
                    added = SiteMoments([row_moments(row)], row[WIDTH - 1].item(), known.target, known.norm, 0)
                    merged[site] = known.merge(added)
        return merged


def moment_route(model: nn.Module, targets: Targets, observer: Observer) -> MomentRoute | None:
    """Return the route of a compiled model, or None if it is not compiled or can have none.

    Args:
        model: The model as the probe was given it.
        targets: What is measured.
        observer: What measures eager passes.
    """
    entry = usable_entry(model)
    return None if entry is None else MomentRoute(unwrap(model), entry, targets, observer)
