"""Results as one HTML page that needs nothing else."""

from gradlab.reporting.page import report

__all__ = ["report"]
