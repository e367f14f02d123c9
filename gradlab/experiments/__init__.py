"""One measurement a file: builds networks, runs data past probes, returns a result."""

from gradlab.experiments.input_gradients import input_gradients
from gradlab.experiments.responses import responses

__all__ = ["input_gradients", "responses"]
