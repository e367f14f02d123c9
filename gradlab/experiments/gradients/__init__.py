"""Gradients, layer by layer: passes over data, float32 against float64, theory beside."""

from gradlab.experiments.gradients.gradients import gradients

__all__ = ["gradients"]
