"""Gradients, layer by layer: the result, what it says, how it is drawn."""
