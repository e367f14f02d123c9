"""Fixtures of tests on devices."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def exact() -> Iterator[None]:
    """Float32 that is not rounded to TF32."""
    from gradlab.stats.float32 import full_float32

    with full_float32():
        yield
