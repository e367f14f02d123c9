"""The nets whose errors are compared: complete runs by one recipe, of one seed or of several."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gradlab.results.label import counterpart_key, description
from gradlab.stats.verdict import Comparison, Estimate, difference, trend_of_known

KINDS = ("plain", "residual")

FEWEST_SEEDS = 3
"""The fewest seeds from which their spread is estimated; below, it is taken as known."""

SEED_SPREAD = 0.005
"""The standard deviation of an error over seeds where it is not estimated; about 1 % is not significant."""

LEAST_STEPS = 2000
"""The number of steps from which the spread over seeds is taken as known: a convention.

Measured were four ResNet-20 trained on the sample for three epochs, where a seed moves training errors by 0.9 points
and test errors by 3 (one standard deviation). Of trainings below this number, one shows nothing.
"""


@dataclass(frozen=True)
class Errors:
    """Errors of one network, of one seed or of several.

    Attributes:
        shares: The error of each seed, as a fraction.
        images: The number of images on which each was measured.
    """

    shares: tuple[float, ...]
    images: int

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return fmean(self.shares)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean: of independent images, above 0 even without a wrong one, and of the seeds."""
        counts = [max(share * (1 - share), 1 / self.images) / self.images for share in self.shares]
        return math.sqrt(sum(variance + SEED_SPREAD**2 for variance in counts)) / len(self.shares)

    @property
    def has_spread(self) -> bool:
        """Whether there are enough seeds to estimate their spread, and not all of them equal."""
        return len(self.shares) >= FEWEST_SEEDS and len(set(self.shares)) > 1


@dataclass(frozen=True)
class Net:
    """A network by one recipe.

    Attributes:
        network: Its label.
        known: The description of its architecture.
        key: The recipe and data.
        form: A key that a plain net and its residual counterpart share.
        training: Its training errors in the last epoch.
        test: Its test errors after it; None if the number of test images is unknown.
        classes: The number of classes, None if unknown.
        steps: The number of steps of the shortest training, None if unknown.
    """

    network: str
    known: Mapping[str, Any]
    key: str
    form: Hashable
    training: Errors
    test: Errors | None
    classes: int | None
    steps: int | None

    @property
    def depth(self) -> int:
        """The number of weighted layers."""
        return int(self.known["depth"])

    @property
    def is_original(self) -> bool:
        """Whether it is the residual net of He et al. 2015, with which variants are compared."""
        return bool(self.known["family"] == "resnet" and self.known["series"] == "resnet")

    @property
    def has_learnt(self) -> bool:
        """Whether its accuracy is more than twice chance; for two classes, more than 3/4."""
        chance = 1 / self.classes if self.classes else 0.0
        return not chance or 1 - self.training.mean > min(2 * chance, (1 + chance) / 2)

    @property
    def is_short(self) -> bool:
        """Whether another seed may differ by more than is known: few steps, and no spread over seeds to estimate."""
        return self.steps is not None and self.steps < LEAST_STEPS and not self.training.has_spread


def nets_of(runs: Iterable[Mapping[str, Any]]) -> list[Net]:
    """The plain and residual nets of several runs; runs of one network and recipe that differ by seed are one net.

    Args:
        runs: The facts on complete runs; see `findings`.
    """
    groups: dict[Hashable, list[Mapping[str, Any]]] = {}
    for run in runs:
        known = description(run)
        if known.get("kind") not in KINDS:
            continue
        repeat, name = 0, known.get("name", run["network"])
        while any(other.get("seed") == run.get("seed") for other in groups.get((run["key"], name, repeat), ())):
            repeat += 1
        groups.setdefault((run["key"], name, repeat), []).append(run)
    return [_net(group) for group in groups.values()]


def _net(seeds: Sequence[Mapping[str, Any]]) -> Net:
    first = seeds[0]
    tested = all(run.get("test_error") is not None and run.get("test_images") for run in seeds)
    return Net(
        first["network"],
        description(first),
        str(first["key"]),
        repr(counterpart_key(first, apart=("shortcut",))),
        Errors(tuple(float(run["error"]) for run in seeds), int(first["images"])),
        Errors(tuple(float(run["test_error"]) for run in seeds), int(first["test_images"])) if tested else None,
        first.get("classes"),
        min((int(run["steps"]) for run in seeds if "steps" in run), default=None),
    )


def compared(one: Errors, other: Errors) -> Comparison:
    """The second error minus the first.

    From three seeds of each on, unless all of one net are equal, the means are compared by Welch's test; otherwise by
    the normal approximation to counts and a known standard deviation over seeds.

    Args:
        one: The first errors.
        other: The second errors.
    """
    if one.has_spread and other.has_spread:
        return difference(Estimate.of(other.shares), Estimate.of(one.shares))
    return trend_of_known([0, 1], [one.mean, other.mean], [one.standard_error, other.standard_error])
