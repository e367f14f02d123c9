"""What stands out in the records of a training, and the rule of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradlab.results.dynamics.growth import FACTOR
from gradlab.results.dynamics.rules import (
    APART,
    CANCELLED,
    CLIPPED,
    DEAD,
    DIVERGED,
    JUMP,
    LEAST_UPDATES,
    SATURATED,
    SPIKE,
)
from gradlab.results.finding import Finding

_GROWTH = (
    "a line through the logarithms over the places of layers, whose slope Student's t tells from 0 in all but 1 % of "
    f"cases, and which spans a factor of {FACTOR:,.0f} or more"
)
_ROBUST = "by more median absolute deviations of logarithms than chance does in all but 1 % of cases"
RULES = {
    "non-finite": "the first record with a value that is not finite; forward where a response has some, else backward",
    "no gradient": "the layer runs, an optimizer steps its weight, and the weight has no gradient: .grad is None",
    "cleared": "the optimizer is given no gradient, or one of exactly 0, where a backward pass has left another",
    "added": "gradients are not 0 as a backward pass adds to them, and nobody has changed them since their optimizer's "
    "step before, in the last two records",
    "zero gradient": "the norm of a weight's gradient is exactly 0",
    "gradient": f"norms of weights' gradients, but for those of tied weights, which are of no one depth: {_GROWTH}",
    "response": f"stds of responses: {_GROWTH}",
    "dead": f"the share of units that are 0 for all inputs of the step is {DEAD:g} or more",
    "saturated": f"the share of values within a hundredth of the range from its ends is {SATURATED:g} or more",
    "update": (
        f"the median of update over weight in the last ten records, of which there are {LEAST_UPDATES} or more, "
        f"differs from that of all layers by {APART:g} times, and {_ROBUST}"
    ),
    "clipping": (
        f"the gradient norm is {CLIPPED:,.0f} times that which the optimizer is given, or more, in the median of the "
        f"last ten records, of which there are {LEAST_UPDATES} or more, and by a factor that differs between them"
    ),
    "cancelled": (
        f"the share of the elements of weights in 16 bits that a step is to change, and which rounding leaves as they "
        f"were, is {CANCELLED:g} or more, in the median of the records with at least half the highest learning rate "
        f"since this was reached, of which there are {LEAST_UPDATES} or more"
    ),
    "diverging": f"loss and gradient norm are both more than {DIVERGED:g} times those of the first record, in each of "
    "the last three, and a step since then was to lower the loss by more than there is of it: Σ g·Δw < −loss",
    "jump": f"the factor from one response's std to the next differs from others by {JUMP:g} times, and {_ROBUST}",
    "spike": f"loss or gradient norm is {SPIKE:g} times the median of up to 32 records before it, and {_ROBUST}",
}
"""The rule of each kind of finding, in words."""


@dataclass(frozen=True)
class Earlier:
    """What is known of records before those that are looked at, as where a long training keeps the newest alone.

    Attributes:
        highest_rate: The highest learning rate.
        first: The values of the whole model at the first record, by statistic.
    """

    highest_rate: float = 0.0
    first: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """Something that stands out.

    Attributes:
        kind: Of `RULES`.
        step: At which it was seen, or since which.
        layer: Where it begins; `total` where that is not known.
        sentence: That says so, with numbers.
    """

    kind: str
    step: int
    layer: str
    sentence: str

    def as_finding(self, network: str) -> Finding:
        """The sentence, with its rule."""
        return Finding(f"{network}: {self.sentence}", f"Told where {RULES[self.kind]}.")
