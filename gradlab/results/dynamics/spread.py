"""How far layers lie apart at the first and the last recorded step, in words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gradlab.results.dynamics.names import DRAWN
from gradlab.results.dynamics.tables import records
from gradlab.results.finding import Finding

_RULE = (
    "Told, without a verdict, of gradient norms and response stds wherever all layers' are above 0 at the first and "
    "the last recorded step: the largest over the smallest of the layers, of which there are two or more, and their "
    "median."
)


def spread(frame: pd.DataFrame) -> list[str]:
    """How far layers differ at the first and the last recorded step, by network.

    Args:
        frame: A dynamics frame.
    """
    sentences: list[str] = []
    all_steps = frame["step"].to_numpy()
    for network, statistic, mask in records(frame):
        if statistic not in DRAWN:
            continue
        steps = all_steps[mask]
        ends = [finite(frame[mask & (all_steps == step)]) for step in (steps.min(), steps.max())]
        if any(len(end) < 2 or end["value"].min() <= 0 for end in ends):
            continue
        first, last = (end["value"].max() / end["value"].min() for end in ends)
        what = "gradient norms" if statistic == "grad_norm" else "response stds"
        medians = [end["value"].median() for end in ends]
        places = ends[1].set_index("layer")["value"]
        factors = f"{first:.3g} at step {steps.min():,} and {last:.3g} at step {steps.max():,}"
        course = f"goes from {medians[0]:.3g} to {medians[1]:.3g}"
        if steps.min() == steps.max():
            factors, course = f"{last:.3g} at step {steps.max():,}", f"is {medians[1]:.3g}"
        sentence = (
            f"{network}: {what} of the layers differ by a factor {factors} (smallest in {places.idxmin()}, largest in "
            f"{places.idxmax()}); their median {course}."
        )
        sentences.append(Finding(sentence, _RULE))
    return sentences


def finite(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a finite value."""
    return rows[np.isfinite(rows["value"])]
