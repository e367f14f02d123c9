"""Findings of a measurement: sentences with the rules that triggered them."""

from __future__ import annotations

from typing import Self


class Finding(str):
    """A sentence with numbers that has its rule as an attribute, and is otherwise a plain string.

    Attributes:
        rule: The source, and the condition in words with the numbers that met it; empty if it is unknown.
    """

    rule: str

    def __new__(cls, sentence: str, rule: str = "") -> Self:
        """Make a finding; since `str` is immutable, its rule is set here."""
        finding = super().__new__(cls, sentence)
        finding.rule = rule
        return finding


def rule_of(finding: str) -> str:
    """The rule of a finding; empty for a plain string."""
    return finding.rule if isinstance(finding, Finding) else ""
