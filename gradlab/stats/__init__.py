"""Estimators, which turn tensors into numbers. The names of `gradlab.theory` are exported here as well."""

from gradlab import theory
from gradlab.stats.autocorrelation import autocorrelation, half_life, is_constant, pooled_autocorrelation
from gradlab.stats.coactivation import Activation, activation_statistics, mean_activation
from gradlab.stats.correlation import gradient_correlation, gradient_covariance
from gradlab.stats.decay import log_rate, power_exponent
from gradlab.stats.effective_rank import (
    cosines,
    effective_rank,
    noise_effective_rank,
    relative_effective_rank,
    row_norm_variation,
    unit_rows,
)
from gradlab.stats.example_convolutions import Geometry, convolution_gradients
from gradlab.stats.example_embeddings import EmbeddingGradients
from gradlab.stats.example_gradients import (
    ExampleContributions,
    Reduced,
    RowGradients,
)
from gradlab.stats.example_normalizations import normalization_gradients, positions_sum
from gradlab.stats.example_outer import OuterGradients
from gradlab.stats.fast_moments import FastMoments, fast_moments
from gradlab.stats.gradient_noise import (
    gradient_diversity,
    gradient_variance,
    mean_cosine,
    simple_noise_scale,
    true_gradient_square,
)
from gradlab.stats.growth_fit import growth_a_layer
from gradlab.stats.inner_product import inner_product
from gradlab.stats.jackknife import jackknife, standard_error
from gradlab.stats.moments import (
    WELL_CONDITIONED,
    Accumulator,
    CentredMoments,
    Moments,
    centred_moments,
)
from gradlab.stats.noise import brown_noise, white_noise
from gradlab.stats.norms import joint_norms, l2_norms, row_norms
from gradlab.stats.path_counting import (
    coactive_fractions,
    layer_slope,
    log_path_correlation,
    log_path_counts,
    path_correlation,
)
from gradlab.stats.segment import segment_autocorrelation
from gradlab.stats.workspace import Workspace
from gradlab.theory import *  # noqa: F403

__all__ = [
    "WELL_CONDITIONED",
    "Accumulator",
    "Activation",
    "CentredMoments",
    "EmbeddingGradients",
    "ExampleContributions",
    "FastMoments",
    "Geometry",
    "Moments",
    "OuterGradients",
    "Reduced",
    "RowGradients",
    "Workspace",
    "activation_statistics",
    "autocorrelation",
    "brown_noise",
    "centred_moments",
    "coactive_fractions",
    "convolution_gradients",
    "cosines",
    "effective_rank",
    "fast_moments",
    "gradient_correlation",
    "gradient_covariance",
    "gradient_diversity",
    "gradient_variance",
    "growth_a_layer",
    "half_life",
    "inner_product",
    "is_constant",
    "jackknife",
    "joint_norms",
    "l2_norms",
    "layer_slope",
    "log_path_correlation",
    "log_path_counts",
    "log_rate",
    "mean_activation",
    "mean_cosine",
    "noise_effective_rank",
    "normalization_gradients",
    "path_correlation",
    "pooled_autocorrelation",
    "positions_sum",
    "power_exponent",
    "relative_effective_rank",
    "row_norm_variation",
    "row_norms",
    "segment_autocorrelation",
    "simple_noise_scale",
    "standard_error",
    "true_gradient_square",
    "unit_rows",
    "white_noise",
]
__all__ += theory.__all__
