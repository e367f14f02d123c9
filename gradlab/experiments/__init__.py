"""One measurement a file: builds networks, runs data past probes, returns a result."""

from gradlab.experiments.responses import responses

__all__ = ["responses"]
