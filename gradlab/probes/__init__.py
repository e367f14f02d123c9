"""Probes: hooks that stream statistics off any module."""

from gradlab.probes.attention import AttentionStatistics
from gradlab.probes.blocks import BlockSignal
from gradlab.probes.examples import ExampleGradients
from gradlab.probes.hooks import Probe
from gradlab.probes.input_gradients import InputGradients, NormGrad
from gradlab.probes.nonfinite import NonfiniteOrigin, find_nonfinite
from gradlab.probes.parameter_gradients import ParameterGradients
from gradlab.probes.prediction import predicted_response_std
from gradlab.probes.response_gradients import ResponseGradients
from gradlab.probes.responses import ResponseStd
from gradlab.probes.schedule import Schedule, StepProbe, log_spaced
from gradlab.probes.selection import find_blocks, layer_kind, layer_stride, select_layers, select_weight_layers

__all__ = [
    "AttentionStatistics",
    "BlockSignal",
    "ExampleGradients",
    "InputGradients",
    "NonfiniteOrigin",
    "NormGrad",
    "ParameterGradients",
    "Probe",
    "ResponseGradients",
    "ResponseStd",
    "Schedule",
    "StepProbe",
    "find_blocks",
    "find_nonfinite",
    "layer_kind",
    "layer_stride",
    "log_spaced",
    "predicted_response_std",
    "select_layers",
    "select_weight_layers",
]
