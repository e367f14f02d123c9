"""Random input is taken or refused in a sentence: 2,000 cases; `benchmarks/fuzz.py` tries as many as are asked for."""

import pytest

from fuzz.targets import TARGETS, tried

CASES = 2000


@pytest.mark.parametrize("name", TARGETS)
def test_random_input_is_taken_or_refused_in_a_sentence(name: str) -> None:
    # The same cases each time: a suite that fails by chance tells nothing of a change.
    tried(TARGETS[name], round(CASES * TARGETS[name].share), derandomize=True)
