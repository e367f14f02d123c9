"""Every probe on every architecture: nothing left out in silence, and every number that of plain torch."""

import functools
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet
from architectures.catalog import ARCHITECTURES
from architectures.checks import CHECKS, Subject

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}


@functools.lru_cache(maxsize=1)
def subject_of(name: str) -> Subject:
    """Built and measured by brute force once, for all probes in turn."""
    return Subject(BY_NAME[name])


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    yield
    subject_of.cache_clear()


EXAMPLES = [probe for probe in CHECKS if probe.startswith("ExampleGradients")]


def pairs() -> Iterator[ParameterSet]:
    """Every architecture under every probe, examples by one of two ways in turn; by both in the thorough tests."""
    for number, architecture in enumerate(ARCHITECTURES):
        for probe in CHECKS:
            marks = [pytest.mark.slow] if architecture.slow else []
            marks += [pytest.mark.thorough] if probe == EXAMPLES[number % 2] else []
            yield pytest.param(architecture.name, probe, marks=marks)


@pytest.mark.parametrize(("name", "probe"), [*pairs()])
def test_covers_all_and_is_right(name: str, probe: str) -> None:
    CHECKS[probe](subject_of(name))


def test_there_are_thirty_architectures() -> None:
    assert len(BY_NAME) == len(ARCHITECTURES) >= 30
