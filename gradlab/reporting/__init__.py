"""Self-contained HTML reports of results."""

from gradlab.reporting.page import report

__all__ = ["report"]
