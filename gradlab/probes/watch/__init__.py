"""A training watched from outside of its loop: `gl.watch`."""

from gradlab.probes.watch.recorder import MEASURES, Measure
from gradlab.probes.watch.watching import Watch

watch = Watch
"""See `Watch`."""

__all__ = ["MEASURES", "Measure", "Watch", "watch"]
