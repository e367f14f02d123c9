"""One family of random nets on a line of inputs: gradients at every depth, and the activity of the layers."""

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
    """The settings common to all families of one measurement.

    Attributes:
        x: The inputs, (M,), float64.
        seeds: The seeds of the nets.
        width: The number of neurons per layer.
        norm_grad: The gradient: `frozen` is df(x_i)/dx_i with fixed statistics of normalization, as in the theorems;
            `full` is the gradient of the sum of outputs, also through the statistics.
        init: The initialization of the hidden weights.
        dtype: The dtype of the networks.
        device: The device of the computation.
        workers: The number of seeds measured at a time on a CPU, each by one thread.
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
        """The indices of the two inputs a quarter from either end: x ≈ −1 and 1 on the grid of the paper."""
        quarter = len(self.x) // 4
        return quarter, len(self.x) - 1 - quarter


@dataclass(frozen=True)
class FamilyRun:
    """The measurements of one family with one norm, in float64 on the CPU.

    Attributes:
        family: The family with its norm resolved.
        gradients: The gradients, (S, M), by depth.
        layers: The active fractions of each layer, (L, S).
        ends: The active fractions of the last ReLU layer of each net, (S,), by depth; empty for residual nets.
        log_paths: The log counts of paths active at the pair through the layers so far, (L, S, 3); see
            `gradlab.stats.log_path_counts`.
        mean_log_paths: The same for an average pair of inputs, layer by layer, from the fractions in `layers`.
        end_log_paths: The log counts at the pair up to the end of each net, (S, 3), by depth.
        mean_end_log_paths: The same for an average pair.
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
    """Measure nets of one family at several depths, seed by seed, or on an accelerator all seeds at once.

    Args:
        family: The family with its norm resolved.
        depths: The depths at which gradients are measured.
        settings: The settings common to all families.
        progress: A function called with the number of seeds done.

    Raises:
        GradlabError: If a gradient is not finite.
    """
    together = 1 if settings.device.type == "cpu" else len(settings.seeds)
    groups = [settings.seeds[start : start + together] for start in range(0, len(settings.seeds), together)]
    parts = []
    workers = settings.workers if settings.device.type == "cpu" else 1
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        each = map if workers == 1 else pool.map
        for part in each(lambda group: run_seeds(family, depths, settings, group), groups):
            parts.append(part)
            if progress is not None:
                progress(min(len(parts) * together, len(settings.seeds)))
    return joined_run(family, depths, parts, settings)


def joined_run(family: Family, depths: Sequence[int], parts: Sequence[FamilyRun], settings: Settings) -> FamilyRun:
    """Join the measurements of several seeds.

    Raises:
        GradlabError: If a gradient is not finite.
    """
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


def run_seeds(family: Family, depths: Sequence[int], settings: Settings, seeds: Sequence[int]) -> FamilyRun:
    """Measure the nets of some of the seeds at once.

    Raises:
        GradlabError: If states of a net leave the range of the dtype.
    """
    options = {
        "width": settings.width,
        "init": settings.init,
        "dtype": settings.dtype,
        "device": settings.device,
    }
    run = forward_mode(family, settings.x, seeds, depths, pair=settings.pair, **options)  # type: ignore[arg-type]
    require_in_range(family, seeds, run.in_range.cpu(), run.scale.dtype)
    gradients = {depth: gradient.cpu() for depth, gradient in run.gradients.items()}
    if settings.norm_grad == "full" and family.norm != "none":
        for depth in depths:
            rows = [full_gradient(family, settings.x, seed, depth, **options) for seed in seeds]  # type: ignore[arg-type]
            gradients[depth] = torch.stack(rows).cpu()
    points = len(settings.x)
    activation = Activation(*(values.cpu() for values in activation_statistics(run.active, points)))
    slopes = layer_slope(run.scale).cpu()
    # Correlation depends on the ratio of the weights of branch and shortcut.
    beta = family.beta / family.shortcut if family.kind == "resnet" else None
    log_paths = log_path_counts(coactive_fractions(run.passing).cpu(), slopes, residual=beta)
    mean_log_paths = log_path_counts(_average_pair(activation), slopes, residual=beta)
    ends = {depth: activation_statistics(active, points) for depth, active in run.end_active.items()}
    end_log_paths = {depth: log_paths[depth - 1] for depth in depths}
    mean_end_log_paths = {depth: mean_log_paths[depth - 1] for depth in depths}
    for depth, passing in run.end_passing.items():
        # The last ReLU of a net is not preceded by a norm, unlike the same layer of a deeper net.
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
    """The fractions active at either input of an average pair and at both, (..., 3)."""
    return torch.stack([activation.activation, activation.activation, activation.coactivation], -1)


def _to_the_end(log_paths: Tensor, depth: int, fractions: Tensor) -> Tensor:
    """The path counts through all layers of a net of this depth, whose last layer has these fractions."""
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


def require_in_range(family: Family, seeds: Sequence[int], in_range: Tensor, dtype: torch.dtype) -> None:
    """Refuse nets whose states overflow.

    Args:
        family: The family of the nets.
        seeds: Their seeds.
        in_range: Whether the states of each are within the range of the dtype, boolean of shape (S,), on the CPU.
        dtype: The dtype of the computation.

    Raises:
        GradlabError: If those of one are not.
    """
    if not in_range.all():
        wider = "" if dtype == torch.float64 else ", or --dtype float64"
        raise GradlabError(
            f"{family.name}: in the net of seed {seeds[int(in_range.long().argmin())]} values leave the range of "
            f"{str(dtype).removeprefix('torch.')}: give inputs nearer to 0 (--range){wider}"
        )
