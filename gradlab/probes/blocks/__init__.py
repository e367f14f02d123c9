"""Residual blocks of any model, found while it runs, and the signal in them."""

from gradlab.probes.blocks.probe import BlockSignal

__all__ = ["BlockSignal"]
