"""The note on results that one process of several measured on its own data."""

import torch


def rank_notes() -> list[str]:
    """Return the sentence for a result of one process of several, or none for a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    ranks = torch.distributed.get_world_size()
    if ranks == 1:
        return []
    return [
        f"rank {torch.distributed.get_rank()} of {ranks}: measured on the examples of this process alone, and not "
        "merged with those of the others"
    ]
