"""The trainings for a paper's table of cases, in which every other net is compared with the first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from gradlab.experiments.degradation import member, run_folder
from gradlab.gallery.figure import NotAtHand, Options
from gradlab.gallery.runs import RUNS, complete_runs, known
from gradlab.results.label import description
from gradlab.results.training.recipes import recipe_key
from gradlab.results.training.result import TrainingResult

Cases = Mapping[str, str]
"""The cases of a table: the names of its rows by family, the original first."""

Runs = Mapping[str, TrainingResult]


FOLDERS = (RUNS / "he2016", RUNS)
"""Where runs are looked for: among those trained for a table, then among all."""


def runs_of(cases: Cases) -> Options:
    """The complete runs of one recipe in the folder and at the depth with most cases, and all their seeds.

    Args:
        cases: The cases of a table.

    Raises:
        NotAtHand: If no folder has runs of the original and of another case at one depth.
    """
    runs = {folder: complete_runs(folder) for folder in FOLDERS}
    here = {
        (folder, depth): _families(found, cases, depth) for folder, found in runs.items() for depth in _depths(found)
    }
    (folder, depth), families = max(here.items(), key=lambda one: (len(one[1]), one[0][1]), default=((RUNS, 0), ()))
    if len(families) < 2:
        raise _missing(cases)
    found = runs[folder]
    seeds = takewhile(lambda seed: any(run_folder(member(f, depth), seed) in found for f in families), count(1))
    return {**_options(folder, (depth,), families), "seeds": 1 + len(list(seeds))}


def runs_of_pairs(cases: Cases) -> Options:
    """The complete runs of the original beside each other case, each at the greatest depth with both, of one folder.

    Args:
        cases: The original and the other cases.

    Raises:
        NotAtHand: If there is no such pair.
    """
    folder, depths = max(((folder, _pairs(folder, cases)) for folder in FOLDERS), key=lambda one: len(one[1]))
    if not depths:
        raise _missing(cases)
    return _options(folder, tuple(sorted({*depths.values()})), (next(iter(cases)), *depths))


def _pairs(folder: Path, cases: Cases) -> dict[str, int]:
    """The greatest depth at which a folder has the original and another case, by family."""
    found = complete_runs(folder)
    first, *others = cases
    return {
        family: depth
        for family in others
        for depth in _depths(found)
        if len(_families(found, (first, family), depth)) > 1
    }


def networks_of(result: TrainingResult, cases: Cases, depth: int) -> dict[str, list[str]]:
    """The networks of each case with complete runs by the recipe of the original, one per seed, by family.

    Args:
        result: The runs.
        cases: The cases of a table.
        depth: The depth.
    """
    facts = {network: result.facts(network) for network in result.networks}
    families: dict[str, list[str]] = {family: [] for family in cases}
    for network, its in facts.items():
        series = description(its).get("series")
        if series in families and description(its)["depth"] == depth and its.get("complete"):
            families[series].append(network)
    original = families[next(iter(cases))][:1]
    return {
        family: [name for name in names if original and _is_alike(facts[name], facts[original[0]])]
        for family, names in families.items()
    }


def _options(folder: Path, depths: tuple[int, ...], families: tuple[str, ...]) -> Options:
    return {"depths": depths, "families": families, "runs": str(folder), "train_missing": False}


def _missing(cases: Cases) -> NotAtHand:
    first, *_, last = cases
    return NotAtHand(
        f"no finished runs of the original and of another case, of one depth and recipe, are in {RUNS}/ "
        f"or {FOLDERS[0]}/ (gradlab degradation --depths 20 --families {first},{last} trains two)"
    )


def _depths(found: Runs) -> list[int]:
    return sorted({known(run)["depth"] for run in found.values()})


def _families(found: Runs, cases: Iterable[str], depth: int) -> tuple[str, ...]:
    """The cases with a run by the recipe of the first; empty if the first has none."""
    first, *_ = cases = list(cases)
    original = found.get(member(first, depth))
    runs = {family: found.get(member(family, depth)) for family in cases}
    return tuple(f for f, run in runs.items() if original and run and _is_alike(_facts(run), _facts(original)))


def _facts(run: TrainingResult) -> dict[str, Any]:
    return run.facts(run.networks[0])


def _is_alike(run: Mapping[str, Any], original: Mapping[str, Any]) -> bool:
    """Whether a run has the recipe and data of the original, of any seed."""
    return recipe_key(run) == recipe_key(original) and run["data"] == original["data"]
