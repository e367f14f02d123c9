"""Measurements as tidy frames with their records."""

from gradlab.results.architectures import ArchitecturesResult
from gradlab.results.coverage import Coverage
from gradlab.results.dynamics import DynamicsResult
from gradlab.results.finding import Finding
from gradlab.results.gradients import GradientsResult
from gradlab.results.input_gradients import InputGradientsResult
from gradlab.results.kinds import KINDS, load_results
from gradlab.results.record import Stopwatch, make_record, versions
from gradlab.results.responses import ResponsesResult
from gradlab.results.result import Result
from gradlab.results.shatter import ShatterResult
from gradlab.results.training import DegradationResult, TrainingResult

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
    "Stopwatch",
    "TrainingResult",
    "load_results",
    "make_record",
    "versions",
]
