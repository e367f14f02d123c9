"""Bands of the figures of lesions."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gradlab.results.lesion.figure import plot_several


def test_a_band_ends_where_all_choices_have_one_error() -> None:
    """Three equal errors have no interval: a band from 0 to 100 would be none of theirs."""
    several = [("several", 2, 0.2), ("several", 2, 0.4), ("several", 4, 0.9), ("several", 4, 0.9), ("several", 4, 0.9)]
    frame = pd.DataFrame([("intact", 0, 0.1), *several], columns=["study", "count", "error"]).assign(network="plain56")
    ax = Figure().add_subplot()
    plot_several(frame, ax)
    (band,) = ax.collections
    points = np.concatenate([path.vertices for path in band.get_paths()] or [np.empty((0, 2))])
    assert not (points[:, 0] == 4).any()
