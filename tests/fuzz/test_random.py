"""Random input is taken or refused in a sentence: 500 cases, 2,000 in the thorough tests.

`benchmarks/fuzz.py` tries as many as are asked for.
"""

import pytest

from fuzz.targets import TARGETS, tried


@pytest.mark.parametrize("cases", [500, pytest.param(2000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("name", TARGETS)
def test_random_input_is_taken_or_refused_in_a_sentence(name: str, cases: int) -> None:
    # The same cases each time: a suite that fails by chance tells nothing of a change.
    tried(TARGETS[name], round(cases * TARGETS[name].share), derandomize=True)
