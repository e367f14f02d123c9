"""Every probe on every architecture: nothing left out in silence, and every number that of plain torch."""

import functools
from collections.abc import Iterator

import pytest
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


@pytest.mark.parametrize("probe", CHECKS)
@pytest.mark.parametrize(
    "name", [pytest.param(a.name, marks=pytest.mark.slow if a.slow else ()) for a in ARCHITECTURES], scope="module"
)
def test_covers_all_and_is_right(name: str, probe: str) -> None:
    CHECKS[probe](subject_of(name))


def test_there_are_thirty_architectures() -> None:
    assert len(BY_NAME) == len(ARCHITECTURES) >= 30
