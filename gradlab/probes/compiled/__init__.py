"""Responses of compiled models and their gradients, measured inside compiled code.

Where the responses of a pass lie is found by hooks in eager passes (`discovery`). Compiled anew with marks at the
inputs and outputs of modules (`marks`), the graph is held against what was found (`proof`) and given to the model's own
backend with an operation at each response in place of the marks (`compiled_pass`). What cannot be proved runs eagerly
(`route`).
"""

from gradlab.probes.compiled.gradients import GradientRoute, gradient_route
from gradlab.probes.compiled.moments import MomentRoute, moment_route

__all__ = ["GradientRoute", "MomentRoute", "gradient_route", "moment_route"]
