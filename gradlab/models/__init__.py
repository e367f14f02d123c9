"""Networks of the papers, built from small blocks, and their names."""

from gradlab.models.batch_norm import batch_statistics, fold_batch_norm, is_foldable
from gradlab.models.cost import Cost, cost, is_projection, multiply_adds_by_part, weighted_layers
from gradlab.models.inference import infer_architectures
from gradlab.models.meta import meta_copy
from gradlab.models.mlp import MLP, create_mlp
from gradlab.models.mlp_family import Family, MLPArchitecture, is_mlp, parse_family, parse_mlp
from gradlab.models.mlp_full_gradient import full_gradient
from gradlab.models.mlp_gradients import ForwardPass, forward_mode
from gradlab.models.registry import Architecture, catalog, create, parse_name

__all__ = [
    "MLP",
    "Architecture",
    "Cost",
    "Family",
    "ForwardPass",
    "MLPArchitecture",
    "batch_statistics",
    "catalog",
    "cost",
    "create",
    "create_mlp",
    "fold_batch_norm",
    "forward_mode",
    "full_gradient",
    "infer_architectures",
    "is_foldable",
    "is_mlp",
    "is_projection",
    "meta_copy",
    "multiply_adds_by_part",
    "parse_family",
    "parse_mlp",
    "parse_name",
    "weighted_layers",
]
