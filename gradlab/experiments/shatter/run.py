"""One family of random nets on a line of inputs: gradients at every depth, and what is active on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.experiments.request import NormGrad
from gradlab.models import Family, forward_mode, full_gradient
from gradlab.models.mlp import Init
from gradlab.stats import Activation, activation_statistics, coactive_fractions, layer_slope, log_path_counts


@dataclass(frozen=True)
class Settings:
    """What all families of one measurement share.

    Attributes:
        x: (M,), float64, the inputs.
        seeds: Of the nets.
        width: Neurons a layer.
        norm_grad: `frozen`: df(x_i)/dx_i with the statistics of normalization held fixed, the theorems' quantity;
            `full`: the gradient of the sum of outputs, through the statistics as well.
        init: Initialization of the hidden weights.
        dtype: Of the networks' arithmetic.
        device: Where to compute.
        workers: Seeds measured at a time on a CPU, a thread each.
    """

    x: Tensor
    seeds: Sequence[int]
    width: int
    norm_grad: NormGrad
    init: Init
    dtype: torch.dtype
    device: torch.device
    workers: int = 1

    @property
    def pair(self) -> tuple[int, int]:
        """Places of the two inputs a quarter from either end: x ≈ −1 and 1 on the paper's grid."""
        quarter = len(self.x) // 4
        return quarter, len(self.x) - 1 - quarter


@dataclass(frozen=True)
class FamilyRun:
    """What was measured of one family with one norm; float64 on the CPU.

    Attributes:
        family: Its norm resolved.
        gradients: (S, M) by depth.
        layers: Fractions of each layer, (L, S).
        ends: Fractions of the last ReLU layer of each net, (S,) by depth; empty for residual nets.
        log_paths: Paths active at the pair through the layers so far, (L, S, 3); see `gradlab.stats.log_path_counts`.
        mean_log_paths: The same for an average pair of inputs, layer by layer: from the fractions in `layers`.
        end_log_paths: Those at the pair to the end of each net, (S, 3) by depth.
        mean_end_log_paths: Those of an average pair, likewise.
    """

    family: Family
    gradients: dict[int, Tensor]
    layers: Activation
    ends: dict[int, Activation]
    log_paths: Tensor
    mean_log_paths: Tensor
    end_log_paths: dict[int, Tensor]
    mean_end_log_paths: dict[int, Tensor]


def run_family(
    family: Family, depths: Sequence[int], settings: Settings, progress: Callable[[int], None] | None = None
) -> FamilyRun:
    """Measure nets of one family at several depths, seed by seed; on an accelerator all seeds at once.

    Args:
        family: Its norm resolved.
        depths: Where to read gradients off.
        settings: What all families share.
        progress: Called with the number of seeds that are done.

    Raises:
        GradlabError: When a gradient is not finite.
    """
    together = len(settings.seeds) if settings.device.type == "cuda" else 1
    groups = [settings.seeds[start : start + together] for start in range(0, len(settings.seeds), together)]
    parts = []
    workers = settings.workers if settings.device.type == "cpu" else 1
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for part in pool.map(lambda group: _run_seeds(family, depths, settings, group), groups):
            parts.append(part)
            if progress is not None:
                progress(min(len(parts) * together, len(settings.seeds)))
    run = FamilyRun(
        family,
        {depth: torch.cat([part.gradients[depth] for part in parts]) for depth in depths},
        _joined([part.layers for part in parts]),
        {depth: _joined([part.ends[depth] for part in parts]) for depth in parts[0].ends},
        torch.cat([part.log_paths for part in parts], 1),
        torch.cat([part.mean_log_paths for part in parts], 1),
        {depth: torch.cat([part.end_log_paths[depth] for part in parts]) for depth in depths},
        {depth: torch.cat([part.mean_end_log_paths[depth] for part in parts]) for depth in depths},
    )
    _require_finite(run, settings)
    return run


def _run_seeds(family: Family, depths: Sequence[int], settings: Settings, seeds: Sequence[int]) -> FamilyRun:
    options = {
        "width": settings.width,
        "init": settings.init,
        "dtype": settings.dtype,
        "device": settings.device,
    }
    run = forward_mode(family, settings.x, seeds, depths, pair=settings.pair, **options)  # type: ignore[arg-type]
    gradients = {depth: gradient.cpu() for depth, gradient in run.gradients.items()}
    if settings.norm_grad == "full" and family.norm != "none":
        for depth in depths:
            rows = [full_gradient(family, settings.x, seed, depth, **options) for seed in seeds]  # type: ignore[arg-type]
            gradients[depth] = torch.stack(rows).cpu()
    points = len(settings.x)
    activation = Activation(*(values.cpu() for values in activation_statistics(run.active, points)))
    slopes = layer_slope(run.scale).cpu()
    beta = family.beta if family.kind == "resnet" else None
    log_paths = log_path_counts(coactive_fractions(run.passing).cpu(), slopes, residual=beta)
    mean_log_paths = log_path_counts(_average_pair(activation), slopes, residual=beta)
    ends = {depth: activation_statistics(active, points) for depth, active in run.end_active.items()}
    end_log_paths = {depth: log_paths[depth - 1] for depth in depths}
    mean_end_log_paths = {depth: mean_log_paths[depth - 1] for depth in depths}
    for depth, passing in run.end_passing.items():
        # The last ReLU of a net has no norm before it, unlike the same layer of a deeper net.
        end_log_paths[depth] = _to_the_end(log_paths, depth, coactive_fractions(passing))
        mean_end_log_paths[depth] = _to_the_end(mean_log_paths, depth, _average_pair(ends[depth]))
    return FamilyRun(
        family,
        gradients,
        activation,
        ends,
        log_paths,
        mean_log_paths,
        end_log_paths,
        mean_end_log_paths,
    )


def _average_pair(activation: Activation) -> Tensor:
    """Fractions active at either input of an average pair and at both, (..., 3)."""
    return torch.stack([activation.activation, activation.activation, activation.coactivation], -1)


def _to_the_end(log_paths: Tensor, depth: int, fractions: Tensor) -> Tensor:
    """Path counts through all layers of a net of this depth, whose last has these fractions."""
    before = log_paths[depth - 2] if depth > 1 else torch.zeros(())
    return before + (2 * fractions.cpu()).log()


def _joined(parts: list[Activation]) -> Activation:
    return Activation(*(torch.cat(values, -1).cpu() for values in zip(*parts, strict=True)))


def _require_finite(run: FamilyRun, settings: Settings) -> None:
    for depth, gradients in run.gradients.items():
        if not gradients.isfinite().all():
            seed, place = (int(i) for i in (~gradients.isfinite()).nonzero()[0])
            raise GradlabError(
                f"{run.family.name} at depth {depth}: the gradient of seed {settings.seeds[seed]} at "
                f"x = {settings.x[place]:.4g} is not finite; --dtype float64 reaches further"
            )
