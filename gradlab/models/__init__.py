"""The papers' networks, built from small blocks, and the grammar of their names."""

from gradlab.models.batch_norm import batch_statistics, fold_batch_norm, is_foldable
from gradlab.models.cost import Cost, cost, is_projection, multiply_adds_by_part, named_cost, weighted_layers
from gradlab.models.description import NamedNetwork, NetworkDescription
from gradlab.models.inference import infer_architectures
from gradlab.models.meta import meta_copy
from gradlab.models.mlp import (
    MLP,
    Family,
    ForwardPass,
    MLPArchitecture,
    activation_patterns,
    create_mlp,
    forward_mode,
    full_gradient,
    parse_family,
)
from gradlab.models.names import describe, is_mlp, network_names, parse_mlp, parse_name
from gradlab.models.registry import create
from gradlab.models.residual import Architecture

__all__ = [
    "MLP",
    "Architecture",
    "Cost",
    "Family",
    "ForwardPass",
    "MLPArchitecture",
    "NamedNetwork",
    "NetworkDescription",
    "activation_patterns",
    "batch_statistics",
    "cost",
    "create",
    "create_mlp",
    "describe",
    "fold_batch_norm",
    "forward_mode",
    "full_gradient",
    "infer_architectures",
    "is_foldable",
    "is_mlp",
    "is_projection",
    "meta_copy",
    "multiply_adds_by_part",
    "named_cost",
    "network_names",
    "parse_family",
    "parse_mlp",
    "parse_name",
    "weighted_layers",
]
