"""Shattered gradients of random networks, and of a function of one's own."""

from gradlab.experiments.shatter.shatter import shatter
from gradlab.experiments.shatter.shattering import shattering

__all__ = ["shatter", "shattering"]
