"""Attention by head and layer: the result, what it says, how it is drawn."""
