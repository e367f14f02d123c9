"""What `gl.attention` and `gradlab attention` ask for."""

from dataclasses import dataclass

from gradlab.experiments.request import NetworksRequest, again, asked


@dataclass(frozen=True, kw_only=True)
class AttentionRequest(NetworksRequest):
    """Networks and data, and what is special to attention."""

    images: int | None = again(NetworksRequest, "images", 64)
    batch_size: int = again(NetworksRequest, "batch_size", 16)
    rows: int | None = asked(64, "How many rows of each attention to take, evenly spaced.", "N", least=1)
