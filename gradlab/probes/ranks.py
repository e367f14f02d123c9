"""Whose numbers they are, where one process of several measures its own data."""

import torch


def rank_notes() -> list[str]:
    """The sentence that a result of one process of several needs; none where there is one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    ranks = torch.distributed.get_world_size()
    if ranks == 1:
        return []
    return [
        f"rank {torch.distributed.get_rank()} of {ranks}: measured on the examples of this process alone, and not "
        "merged with those of the others"
    ]
