"""What a measurement shows: a sentence, and the rule that triggered it."""

from __future__ import annotations

from typing import Self


class Finding(str):
    """A sentence with numbers that knows its rule; everywhere else it is the plain sentence.

    Attributes:
        rule: The source, and the condition in words with the numbers that met it; empty where none is known.
    """

    rule: str

    def __new__(cls, sentence: str, rule: str = "") -> Self:
        """A finding; `str` is immutable, so its rule comes with it."""
        finding = super().__new__(cls, sentence)
        finding.rule = rule
        return finding


def rule_of(finding: str) -> str:
    """The rule behind a finding; empty for a plain sentence."""
    return finding.rule if isinstance(finding, Finding) else ""
