"""The attention of any model, found while it runs: entropies and logits by head."""

from gradlab.probes.attention.probe import AttentionStatistics

__all__ = ["AttentionStatistics"]
