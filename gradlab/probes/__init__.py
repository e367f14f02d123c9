"""Hooks that stream statistics off any module."""

from gradlab.probes.hooks import Probe
from gradlab.probes.input_gradients import InputGradients, NormGrad
from gradlab.probes.prediction import predicted_response_std
from gradlab.probes.responses import ResponseStd
from gradlab.probes.selection import layer_kind, layer_stride, select_layers

__all__ = [
    "InputGradients",
    "NormGrad",
    "Probe",
    "ResponseStd",
    "layer_kind",
    "layer_stride",
    "predicted_response_std",
    "select_layers",
]
