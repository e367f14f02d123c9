"""Fixtures of tests on devices."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def exact() -> Iterator[None]:
    """Float32 that is not rounded to TF32."""
    from devices.gpu import exact_arithmetic

    with exact_arithmetic():
        yield
