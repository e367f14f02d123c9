"""The names of recorded statistics and of figures, with the captions of these."""

TOTAL = "total"
"""The layer of what is recorded of the whole model."""

STATISTICS = (
    *("grad_norm", "response_std", "relative", "response_mean", "response_max", "non_finite_fraction"),
    *("zero_fraction", "dead_units", "saturated_fraction", "response_grad_rms", "grad_rms", "weight_norm"),
    *("update_norm", "update_ratio", "update_cosine", "angular_update", "cancelled_fraction"),
)
"""What may be recorded of a layer; see `gl.watch`."""

SHARES = {"non_finite_fraction", "zero_fraction", "dead_units", "saturated_fraction", "cancelled_fraction"}
"""Those that lie between 0 and 1."""

DRAWN = ("grad_norm", "response_std")
"""What the figures show by default, where it was recorded."""

FIGURES = ("maps", "bands", "layer")
"""The figures: layer × step in colour, quantiles over the layers, and all statistics of one layer."""

CAPTIONS = {
    "dynamics": (
        "Each layer (upward, in order of execution) at each recorded step in colour, with one scale for all "
        "networks, over the errors in percent (training dashed, test bold) or the loss. White is exactly 0 on a "
        "log scale, hatched what is not finite or was not recorded. Of more than 1,000 steps, two columns show the "
        "smallest and the largest value of each layer over an interval."
    ),
    "dynamics-bands": (
        "Median over the layers at each recorded step, with the bands of 50 % and 90 % of them. Of more than 1,000 "
        "steps, the extremes over intervals are shown."
    ),
    "dynamics-layer": (
        "Every statistic of one layer at each recorded step. Of more than 1,000 steps, the smallest and the "
        "largest value over intervals are shown."
    ),
}
"""What the figures show, by the names of their files."""
