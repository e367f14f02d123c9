"""The outputs of the blocks of one network, and their means over seeds."""

from __future__ import annotations

import pandas as pd


def gradient_ratios(blocks: pd.DataFrame) -> pd.Series:
    """Return the RMS of the gradient on the stream at the first block over that at the last, for each seed.

    Args:
        blocks: The rows of one network from `outputs`.
    """
    seeds = blocks["seed"].astype(object).where(blocks["seed"].notna(), None) if "seed" in blocks else None
    groups = [blocks] if seeds is None else [rows for _, rows in blocks.groupby(seeds.map(str))]
    return pd.Series([rows["stream_grad_rms"].iloc[0] / rows["stream_grad_rms"].iloc[-1] for rows in groups])


def outputs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per network, seed and block: that of the last branch, after which the stream is the output.

    Args:
        frame: A signal frame.
    """
    keys = ["network", "index", *(["seed"] if "seed" in frame else [])]
    return frame.drop_duplicates(keys, keep="last")


def mean_variances(blocks: pd.DataFrame) -> pd.Series:
    """Return the variance of the stream by the index of the block, as its mean over seeds.

    Args:
        blocks: The rows of one network from `outputs`.
    """
    return (blocks["stream_total_std"] ** 2).groupby(blocks["index"]).mean()


def off_theory(blocks: pd.DataFrame) -> pd.Series:
    """Return the relative differences of these variances from the theory of infinite width, by index; NaN without one.

    Args:
        blocks: The rows of one network from `outputs`.
    """
    return (mean_variances(blocks) / blocks.groupby("index")["theory"].mean() ** 2 - 1).abs()
