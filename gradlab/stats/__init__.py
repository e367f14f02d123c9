"""Tensors in, numbers out."""

from gradlab.stats.arc_cosine import (
    feedforward_gradient_correlation,
    kappa0,
    kappa0_slope,
    kappa1,
    kernel_derivatives,
    residual_correlation,
)
from gradlab.stats.autocorrelation import autocorrelation, half_life, is_constant, pooled_autocorrelation
from gradlab.stats.coactivation import Activation, activation_statistics, mean_activation
from gradlab.stats.coin_flip import (
    CENTRED_EXPONENT,
    feedforward_law,
    normalized_residual_law,
    normalized_residual_variance,
    paper_asymptote,
    residual_law,
    residual_variance,
)
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
    RowGradients,
    normalization_gradients,
    positions_sum,
)
from gradlab.stats.example_outer import OuterGradients
from gradlab.stats.expected_acf import expected_autocorrelation
from gradlab.stats.fast_moments import FastMoments, fast_moments
from gradlab.stats.gradient_growth import (
    batch_norm_relu_growth,
    he_growth,
    residual_gradient_moments,
    tap_coverage,
    taps_inside,
)
from gradlab.stats.gradient_kernel import feedforward_gradient_kernel
from gradlab.stats.gradient_noise import (
    gradient_diversity,
    gradient_variance,
    mean_cosine,
    simple_noise_scale,
    true_gradient_square,
)
from gradlab.stats.growth_fit import growth_a_layer
from gradlab.stats.jackknife import jackknife, standard_error
from gradlab.stats.moments import (
    WELL_CONDITIONED,
    Accumulator,
    CentredMoments,
    Moments,
    centred_moments,
)
from gradlab.stats.noise import brown_noise, brown_noise_acf, brown_noise_pooled_acf, white_noise, white_noise_acf
from gradlab.stats.normalized import normalized_response_std
from gradlab.stats.norms import joint_norms, l2_norms, row_norms
from gradlab.stats.path_counting import (
    coactive_fractions,
    layer_slope,
    log_path_correlation,
    log_path_counts,
    path_correlation,
)
from gradlab.stats.rectified_residual import rectified_residual_gradient_moments
from gradlab.stats.segment import segment_autocorrelation
from gradlab.stats.workspace import Workspace

__all__ = [
    "CENTRED_EXPONENT",
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
    "RowGradients",
    "Workspace",
    "activation_statistics",
    "autocorrelation",
    "batch_norm_relu_growth",
    "brown_noise",
    "brown_noise_acf",
    "brown_noise_pooled_acf",
    "centred_moments",
    "coactive_fractions",
    "convolution_gradients",
    "cosines",
    "effective_rank",
    "expected_autocorrelation",
    "fast_moments",
    "feedforward_gradient_correlation",
    "feedforward_gradient_kernel",
    "feedforward_law",
    "gradient_correlation",
    "gradient_covariance",
    "gradient_diversity",
    "gradient_variance",
    "growth_a_layer",
    "half_life",
    "he_growth",
    "is_constant",
    "jackknife",
    "joint_norms",
    "kappa0",
    "kappa0_slope",
    "kappa1",
    "kernel_derivatives",
    "l2_norms",
    "layer_slope",
    "log_path_correlation",
    "log_path_counts",
    "log_rate",
    "mean_activation",
    "mean_cosine",
    "noise_effective_rank",
    "normalization_gradients",
    "normalized_residual_law",
    "normalized_residual_variance",
    "normalized_response_std",
    "paper_asymptote",
    "path_correlation",
    "pooled_autocorrelation",
    "positions_sum",
    "power_exponent",
    "rectified_residual_gradient_moments",
    "relative_effective_rank",
    "residual_correlation",
    "residual_gradient_moments",
    "residual_law",
    "residual_variance",
    "row_norm_variation",
    "row_norms",
    "segment_autocorrelation",
    "simple_noise_scale",
    "standard_error",
    "tap_coverage",
    "taps_inside",
    "true_gradient_square",
    "unit_rows",
    "white_noise",
    "white_noise_acf",
]
