"""The origin of the first non-finite value."""

from gradlab.probes.nonfinite.find import find_nonfinite
from gradlab.probes.nonfinite.origin import Origin
from gradlab.probes.nonfinite.probe import NonfiniteOrigin

__all__ = ["NonfiniteOrigin", "Origin", "find_nonfinite"]
