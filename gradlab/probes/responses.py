"""Layer-response std (He et al. 2015, arXiv:1512.03385, §4.2, Fig. 7) of any model, while it runs."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gradlab.errors import GradlabError, NothingSeen
from gradlab.facts import name_of
from gradlab.probes.coverage import depth_of, description_of
from gradlab.probes.finder import Part, ResponseFinder, Site, is_normalization
from gradlab.probes.hooks import Probe
from gradlab.probes.outputs import plain_values
from gradlab.probes.prediction import batch_norm_stds, shard_holders
from gradlab.probes.ranks import TIMEOUT, Ranks, uneven_notes
from gradlab.probes.response_rows import response_row
from gradlab.probes.selection import Selection
from gradlab.probes.site_moments import SiteMoments, merged_sites, site_notes, take_in, whole_sites
from gradlab.probes.streams import wait_for_all
from gradlab.probes.targets import response_targets
from gradlab.probes.tensor_layout import Layout, LayoutWatch
from gradlab.probes.unmeasured import reasons, response_coverage, scripted_norm_notes, unmeasured_notes
from gradlab.results.responses.result import ResponsesResult
from gradlab.stats import Accumulator, CentredMoments, FastMoments
from gradlab.stats.moment_rows import Adder, MomentRows
from gradlab.stats.moments import fetched

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from gradlab.probes.compiled import MomentRoute


class ResponseStd(Probe):
    """Measures the standard deviation of layer responses over all inputs on which the model is run.

    The response of a layer is its output after normalization and before any other nonlinearity or addition. Its std
    is the population std over all elements: images, channels and positions. For complex values x it is √E|x − E x|².

        with gl.ResponseStd(model) as probe:
            for images, _ in loader:
                model(images)
        probe.result().to_frame()

    Sums stay on the model's device and are merged in float64; no activation is stored, and there is no synchronization
    until the result is requested. Non-finite values are counted and left out.

    The output of a layer is what calling it returns, including the effect of hooks. If a layer returns several
    tensors, the first one is its response, and the others have rows of their own: `lstm`, `lstm[1][0]`. A weight that
    a function applies outside its layer (`F.linear(h, embedding.weight)`, `x @ self.weight`, the projections of
    `nn.MultiheadAttention`) counts as a further call of the layer, or as a row with the parameter's name. Calls are
    counted within one forward pass, which is a call of the model, or of a part of it that is called on its own. A
    pass that ends in an exception is not counted.

    A model that was compiled as a whole stays so: after eager passes that show where its responses are, its backend
    compiles it with the sums inside (see `gradlab.probes.compiled`). What cannot be proved right there runs eagerly,
    and a warning says why.

    In a distributed run, `result`, `moments` and `channels` are calls that every rank makes. They merge the moments of
    all ranks' responses in float64 (Chan et al., see `Moments.merge`), and return the same on every rank: the std
    over the examples of all ranks, whatever their numbers.

    Args:
        model: Any `torch.nn.Module`.
        layers: The layers to measure: names or globs, a class, a predicate, or None for every weight that is applied
            to a signal (see `response_targets`). A module that is not a weight layer is measured by its own output.
        exact: Whether to use centred float64 moments, which are exact for any data but several times slower. The
            default has a relative error of at most 1e-6 while |mean| / std is at most 10, and the result notes where
            this does not hold.
        per_channel: Whether to keep the moments of each channel as well, for `channels`.
        process_group: The ranks to merge; None for all of them, where torch.distributed is initialized.
        local: Whether to measure this rank's examples alone, which the result then says.
        timeout: Seconds for which a result waits for the other ranks, until an error names those that are missing.

    Raises:
        UsageError: If no layer is selected.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Selection = None,
        *,
        exact: bool = False,
        per_channel: bool = False,
        process_group: ProcessGroup | None = None,
        local: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(model, Ranks(process_group, local, timeout))
        self.targets = response_targets(self.model, layers)
        self.exact, self.per_channel = exact, per_channel
        self._accumulators: dict[Site, Accumulator] = {}
        # The accumulators before the current pass, of the sites that it has reached.
        self._before: dict[Site, Accumulator | None] = {}
        self._rows = MomentRows()
        self._route = self._route_of(model)
        finder = None if self._route is None else self._route.finder
        self._finder = finder or ResponseFinder(self.model, self.targets, self, adder=self._adder)
        self._split = LayoutWatch(self.model)
        self._layouts: list[Layout] = []
        self._compiled_notes: list[str] = []

    def _route_of(self, model: nn.Module) -> MomentRoute | None:
        if not self._compiled or self.exact or self.per_channel:
            return None
        # What torch has for compiled code is loaded where there is some.
        from gradlab.probes.compiled import moment_route

        return moment_route(model, self.targets, self)

    @property
    def _needs_hooks(self) -> bool:
        # A route runs compiled code, and says what it does not run.
        return self._route is None

    def _attach(self, stack: ExitStack) -> None:
        self._split.attach(stack)
        (self._route or self._finder).attach(stack)

    def observe(self, site: Site, response: Tensor, part: Part | None) -> None:
        """See `Observer`."""
        response = self._split.local(site, plain_values(response), [self._finder.norms.get(site, ""), site.layer])
        if part is not None:
            response = response.chunk(part[1], -1)[part[0]]
        accumulator = self._marked(site)
        if accumulator is None:
            accumulator = self._accumulators[site] = self._accumulator(site)
        self._add(site, accumulator, response)

    def _marked(self, site: Site) -> Accumulator | None:
        """Return the accumulator of a site that the pass has reached, as it is before the pass if this is undone."""
        accumulator = self._accumulators.get(site)
        if site not in self._before:
            self._before[site] = accumulator
            if accumulator is not None:
                accumulator.mark()
        return accumulator

    def _add(self, site: Site, accumulator: Accumulator, response: Tensor) -> None:
        accumulator.update(response)

    def _adder(self, site: Site) -> Adder | None:
        """Return what takes the responses of a site in place of `observe`, from the pass after the first one."""
        accumulator = self._accumulators.get(site)
        if not isinstance(accumulator, FastMoments) or site in self._before:
            return None
        split = self._split.splits([self._finder.norms.get(site, ""), site.layer])
        return None if split else accumulator.adder(self._rows)

    def discard(self, site: Site, observation: object) -> None:
        """See `Observer`."""
        self._marked(site)
        # The entry is replaced rather than deleted, so that the site keeps its place in the order of execution.
        self._accumulators[site] = self._accumulator(site)

    def finish(self, whole: bool) -> None:
        """See `Observer`."""
        self.ranks.remember()
        self._rows.end_pass(whole)
        before, self._before = self._before, {}
        if whole:
            return
        for site, accumulator in before.items():
            if accumulator is None:
                self._accumulators.pop(site, None)
            else:
                accumulator.undo()
                self._accumulators[site] = accumulator

    def _accumulator(self, site: Site) -> Accumulator:
        channel_dim = None
        if self.per_channel:
            module = self._finder.places[site.layer].module
            channel_dim = -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else -1
        return CentredMoments(channel_dim) if self.exact else FastMoments(channel_dim)

    def result(self, network: str | None = None) -> ResponsesResult:
        """Return the measurement so far: one row per site, in order of execution.

        Args:
            network: The name of the model in the result; by default its name from `gl.build`, or its class.

        Raises:
            GradlabError: If no forward pass of the model was seen.
        """
        by_rank = self._by_rank("result", pooled=True)
        sites = self._merged(by_rank)
        rows, predicted = [], self._predicted(sites)
        for index, (site, found) in enumerate(sites.items(), 1):
            count, mean, std, non_finite = found.values
            given = std if found.resolves(mean, std) else math.nan
            measured: dict[str, Any] = {"std": given, "mean": mean, "count": int(count), "non_finite": int(non_finite)}
            std_of_norm = predicted.get(site, math.nan)
            rows.append(
                response_row(
                    site.layer, index, self._finder.places[site.layer], std_of_norm, call=site.call, **measured
                )
            )
        name = network or name_of(self.model)
        left_out = reasons(self._finder)
        coverage = response_coverage(self._finder, {site.layer for site in sites}, left_out)
        facts = {
            "depth": depth_of(self.model),
            "description": description_of(self.model),
            "coverage": coverage.as_record(),
        }
        uneven = uneven_notes([{site: site.layer for site in seen} for seen in by_rank], self.ranks)
        unmeasured = [*unmeasured_notes(left_out), *scripted_norm_notes(self.model)]
        notes = [*self._notes(sites), *unmeasured, *self.ranks.notes(), *uneven, *self._compiled_notes]
        return ResponsesResult.from_rows(str(name), rows, notes, facts)

    def moments(self) -> dict[Site, list[float]]:
        """Return count, mean, std and non-finite count of each site so far, in order of execution, in one transfer.

        Raises:
            GradlabError: If no forward pass of the model was seen.
        """
        return {site: found.values for site, found in self._merged(self._by_rank("moments", pooled=True)).items()}

    def channels(self) -> pd.DataFrame:
        """Return the moments of each channel, with columns layer, call, channel, std, mean and count.

        Raises:
            GradlabError: If the probe was not made with `per_channel=True`, or saw no forward pass.
        """
        if not self.per_channel:
            raise GradlabError("channels were not kept: make the probe with per_channel=True")
        frames = []
        by_rank = self._by_rank("channels", pooled=False)
        if any(layout.peers for layout in self._layouts):
            raise GradlabError("tensor parallelism gives ranks channels of their own: measure channels with local=True")
        for site, found in self._merged(by_rank).items():
            m = found.moments
            columns = {"std": m.std, "mean": m.mean, "count": m.count}
            frame = pd.DataFrame({name: value.numpy() for name, value in columns.items()})
            frame.insert(0, "channel", range(len(frame)))
            frame.insert(0, "call", site.call)
            frame.insert(0, "layer", site.layer)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def _by_rank(self, call: str, pooled: bool) -> list[dict[Site, SiteMoments]]:
        """Return what every rank has measured of its sites, with one transfer from its device."""
        wait_for_all(self.model)
        if self._stack is not None:
            # Of a pass that Ctrl-C has ended, nothing counts.
            self._finder.passes.forget_ended()
        parts = [self._accumulators[site].parts() for site in self._accumulators]
        every = [moments.pooled() if pooled and self.per_channel else moments for found in parts for moments in found]
        there = iter(fetched(every))
        own = {
            site: SiteMoments(
                [next(there) for _ in found],
                accumulator.precision if isinstance(accumulator, FastMoments) else 0.0,
                self._finder.places[site.layer].name,
                self._finder.norms.get(site),
                self._finder.unseen.get(site, 0),
            )
            for (site, accumulator), found in zip(self._accumulators.items(), parts, strict=True)
        }
        passes = None if self._route is None else self._route.passes
        own = own if self._route is None else self._route.merged_with(own)
        told = self.ranks.gather((own, self._split.layout, passes), f"ResponseStd.{call}()")
        self._layouts = [layout for _, layout, _ in told]
        if self._route is not None:
            self._compiled_notes = self._route.notes([passes for _, _, passes in told])
        return [sites for sites, _, _ in told]

    def _merged(self, by_rank: list[dict[Site, SiteMoments]]) -> dict[Site, SiteMoments]:
        if not any(by_rank):
            raise NothingSeen(
                "the probe saw no forward pass of a measured layer: run the model inside the `with` block, called as "
                "model(x) and not inside a compiled function, or choose layers that it applies with layers="
            )
        sites = merged_sites(whole_sites(by_rank, self._layouts, self.ranks))
        take_in(self._finder, [(site.layer, found.target) for site, found in sites.items()])
        return sites

    def _predicted(self, sites: dict[Site, SiteMoments]) -> dict[Site, float]:
        """Return the std that running statistics predict, of the sites that a normalization follows."""
        norms = {
            site: self.model.get_submodule(found.norm)
            for site, found in sites.items()
            if found.norm is not None and not self._unpredicted(found)
        }
        return dict(zip(norms, batch_norm_stds([*norms.values()]), strict=True))

    def _unpredicted(self, found: SiteMoments) -> bool:
        """Return whether ranks that are not measured have parts of the normalization, which they are not asked for."""
        holders = shard_holders(self.model.get_submodule(found.norm)) if found.norm else set()
        return not holders <= set(self.ranks.numbers)

    def _notes(self, sites: dict[Site, SiteMoments]) -> list[str]:
        notes = []
        layers = any(target.is_layer for target in self.targets.chosen.values())
        if any(map(self._unpredicted, sites.values())):
            notes.append("predicted_std is missing where other ranks have a part of the normalization's parameters")
        if (
            layers
            and all(found.norm is None for found in sites.values())
            and any(is_normalization(module) for module in self.model.modules())
        ):
            notes.append(
                "no normalization module directly follows a measured layer: the responses are the layers' own outputs"
            )
        return [*notes, *(note for site, found in sites.items() for note in site_notes(site.layer, found, self.exact))]
