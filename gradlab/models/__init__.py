"""Networks of the papers, built from small blocks, and their names."""

from gradlab.models.batch_norm import batch_statistics, fold_batch_norm
from gradlab.models.cost import Cost, cost, is_projection, weighted_layers
from gradlab.models.inference import infer_architectures
from gradlab.models.meta import meta_copy
from gradlab.models.registry import Architecture, catalog, create, parse_name

__all__ = [
    "Architecture",
    "Cost",
    "batch_statistics",
    "catalog",
    "cost",
    "create",
    "fold_batch_norm",
    "infer_architectures",
    "is_projection",
    "meta_copy",
    "parse_name",
    "weighted_layers",
]
