"""The fully connected nets of "The Shattered Gradients Problem" (Balduzzi et al. 2017, arXiv:1702.08591)."""

from gradlab.models.mlp.architecture import MLPArchitecture, create_mlp, read_mlp
from gradlab.models.mlp.family import CENTER_UP_TO, Family, Init, parse_family
from gradlab.models.mlp.full_gradient import full_gradient
from gradlab.models.mlp.gradients import ForwardPass, forward_mode
from gradlab.models.mlp.network import MLP
from gradlab.models.mlp.patterns import activation_patterns
from gradlab.models.mlp.weights import WeightStream

__all__ = [
    "CENTER_UP_TO",
    "MLP",
    "Family",
    "ForwardPass",
    "Init",
    "MLPArchitecture",
    "WeightStream",
    "activation_patterns",
    "create_mlp",
    "forward_mode",
    "full_gradient",
    "parse_family",
    "read_mlp",
]
