"""What findings say, and do not say, in one regime: few seeds, dead nets, equal nets, nets near chance and the like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradlab.results.finding import rule_of

Sentences = Sequence[str]
Regime = tuple[Callable[[], Sentences], list[str], list[str]]
"""What makes the findings, words that are in them, and words that are in none."""

MISSING = ("nan", "None", "inf ")
"""What no sentence ever says."""


def check(regime: Regime) -> None:
    """Hold the findings against what they should and should not say; each is a sentence and has a rule."""
    make, says, not_says = regime
    found = make()
    said = " ".join(found)
    for words in says:
        assert words in said, said
    for words in (*not_says, *MISSING):
        assert words not in said, said
    assert bool(found) or not says
    for finding in found:
        assert finding.endswith("."), finding
        assert rule_of(finding).endswith("."), finding
