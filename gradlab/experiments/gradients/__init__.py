"""Gradients, layer by layer: what is asked for, passes over data, float32 against float64, theory beside."""
