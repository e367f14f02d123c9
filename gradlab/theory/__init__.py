"""Closed forms and recursions from the papers. `gradlab.stats` exports every name as well."""

from gradlab.theory.activation_switches import coin_flip_runs, first_layer_runs, switch_rates
from gradlab.theory.arc_cosine import (
    feedforward_gradient_correlation,
    kappa0,
    kappa0_slope,
    kappa1,
    kernel_derivatives,
    residual_correlation,
)
from gradlab.theory.coin_flip import (
    CENTRED_EXPONENT,
    feedforward_law,
    highway_law,
    normalized_highway_law,
    normalized_residual_law,
    normalized_residual_variance,
    paper_asymptote,
    residual_law,
    residual_variance,
)
from gradlab.theory.dual_activation import dual_activation, gaussian_mean, mean_square, mean_square_slope
from gradlab.theory.expected_acf import (
    brown_noise_acf,
    brown_noise_pooled_acf,
    expected_autocorrelation,
    white_noise_acf,
)
from gradlab.theory.gradient_growth import (
    batch_norm_relu_growth,
    he_growth,
    residual_gradient_moments,
    tap_coverage,
    taps_inside,
)
from gradlab.theory.gradient_kernel import feedforward_gradient_kernel
from gradlab.theory.jacobian_scatter import relu_jacobian_deviation
from gradlab.theory.jacobian_spectrum import (
    jacobian_mean_square,
    jacobian_spectrum,
    jacobian_square_variance,
)
from gradlab.theory.mean_field import (
    correlation_fixed_point,
    correlation_map,
    depth_scale,
    gradient_factor,
    variance_fixed_point,
)
from gradlab.theory.normalized import normalized_response_std
from gradlab.theory.path_lengths import path_length_distribution
from gradlab.theory.predicted_stream import predicted_stream_variance, transformer_law
from gradlab.theory.rectified_residual import rectified_residual_gradient_moments
from gradlab.theory.residual_net_stream import preactivation_stream, rectified_stream
from gradlab.theory.residual_stream import (
    deepnorm_constants,
    post_norm_gradient,
    pre_norm_gradient,
    pre_norm_variance,
    unnormalized_variance,
)
from gradlab.theory.token_kernel import (
    attention_kernel,
    exchangeable_kernel,
    normalized_kernel,
    pure_attention_spread,
    uniform_attention,
)
from gradlab.theory.transformer_stream import TransformerLaw, stream_variance, token_correlation

__all__ = [
    "CENTRED_EXPONENT",
    "TransformerLaw",
    "attention_kernel",
    "batch_norm_relu_growth",
    "brown_noise_acf",
    "brown_noise_pooled_acf",
    "coin_flip_runs",
    "correlation_fixed_point",
    "correlation_map",
    "deepnorm_constants",
    "depth_scale",
    "dual_activation",
    "exchangeable_kernel",
    "expected_autocorrelation",
    "feedforward_gradient_correlation",
    "feedforward_gradient_kernel",
    "feedforward_law",
    "first_layer_runs",
    "gaussian_mean",
    "gradient_factor",
    "he_growth",
    "highway_law",
    "jacobian_mean_square",
    "jacobian_spectrum",
    "jacobian_square_variance",
    "kappa0",
    "kappa0_slope",
    "kappa1",
    "kernel_derivatives",
    "mean_square",
    "mean_square_slope",
    "normalized_highway_law",
    "normalized_kernel",
    "normalized_residual_law",
    "normalized_residual_variance",
    "normalized_response_std",
    "paper_asymptote",
    "path_length_distribution",
    "post_norm_gradient",
    "pre_norm_gradient",
    "pre_norm_variance",
    "preactivation_stream",
    "predicted_stream_variance",
    "pure_attention_spread",
    "rectified_residual_gradient_moments",
    "rectified_stream",
    "relu_jacobian_deviation",
    "residual_correlation",
    "residual_gradient_moments",
    "residual_law",
    "residual_variance",
    "stream_variance",
    "switch_rates",
    "tap_coverage",
    "taps_inside",
    "token_correlation",
    "transformer_law",
    "uniform_attention",
    "unnormalized_variance",
    "variance_fixed_point",
    "white_noise_acf",
]
