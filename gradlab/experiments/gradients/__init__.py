"""Gradients layer by layer: the request, passes over data, float32 against float64, and theory."""
