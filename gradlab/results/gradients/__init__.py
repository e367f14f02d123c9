"""Gradients, layer by layer: result, findings and figure."""
