"""Gradients of single examples, in the backward pass of their batch."""

from gradlab.probes.examples.probe import ExampleGradients, Reduction

__all__ = ["ExampleGradients", "Reduction"]
