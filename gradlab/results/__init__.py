"""Measurements as tidy frames with their records."""

from gradlab.results.architectures.result import ArchitecturesResult
from gradlab.results.coverage import Coverage
from gradlab.results.degradation.result import DegradationResult
from gradlab.results.dynamics.result import DynamicsResult
from gradlab.results.finding import Finding
from gradlab.results.gradients.result import GradientsResult
from gradlab.results.input_gradients.result import InputGradientsResult
from gradlab.results.kinds import KINDS, load_results
from gradlab.results.record import Stopwatch, make_record, versions
from gradlab.results.responses.result import ResponsesResult
from gradlab.results.result import Result
from gradlab.results.shatter.result import ShatterResult
from gradlab.results.signal.result import SignalResult
from gradlab.results.training.result import TrainingResult

__all__ = [
    "KINDS",
    "ArchitecturesResult",
    "Coverage",
    "DegradationResult",
    "DynamicsResult",
    "Finding",
    "GradientsResult",
    "InputGradientsResult",
    "ResponsesResult",
    "Result",
    "ShatterResult",
    "SignalResult",
    "Stopwatch",
    "TrainingResult",
    "load_results",
    "make_record",
    "versions",
]
