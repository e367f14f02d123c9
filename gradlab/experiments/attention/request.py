"""The request of `gl.attention` and `gradlab attention`."""

from dataclasses import dataclass

from gradlab.experiments.request import NetworksRequest, again, asked


@dataclass(frozen=True, kw_only=True)
class AttentionRequest(NetworksRequest):
    """Networks and data, and the options for attention."""

    images: int | None = again(NetworksRequest, "images", 64)
    batch_size: int = again(NetworksRequest, "batch_size", 16)
    rows: int | None = asked(64, "The number of evenly spaced rows to take from each attention.", "N", least=1)
