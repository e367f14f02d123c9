"""One measurement a file: builds networks, runs data past probes, returns a result."""

from gradlab.experiments.degradation import degradation
from gradlab.experiments.dynamics import dynamics
from gradlab.experiments.gradients.gradients import gradients
from gradlab.experiments.input_gradients import input_gradients
from gradlab.experiments.responses import responses
from gradlab.experiments.shatter.shatter import shatter
from gradlab.experiments.shatter.shattering import shattering
from gradlab.experiments.train import train

__all__ = [
    "degradation",
    "dynamics",
    "gradients",
    "input_gradients",
    "responses",
    "shatter",
    "shattering",
    "train",
]
