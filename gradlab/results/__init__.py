"""Measurements as tidy frames with their records."""

from gradlab.results.record import Stopwatch, make_record, versions
from gradlab.results.responses import ResponsesResult
from gradlab.results.result import Result

__all__ = ["ResponsesResult", "Result", "Stopwatch", "make_record", "versions"]
