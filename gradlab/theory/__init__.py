"""Closed forms and recursions from the papers. `gradlab.stats` exports every name as well."""

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
    normalized_residual_law,
    normalized_residual_variance,
    paper_asymptote,
    residual_law,
    residual_variance,
)
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
from gradlab.theory.normalized import normalized_response_std
from gradlab.theory.rectified_residual import rectified_residual_gradient_moments

__all__ = [
    "CENTRED_EXPONENT",
    "batch_norm_relu_growth",
    "brown_noise_acf",
    "brown_noise_pooled_acf",
    "expected_autocorrelation",
    "feedforward_gradient_correlation",
    "feedforward_gradient_kernel",
    "feedforward_law",
    "he_growth",
    "kappa0",
    "kappa0_slope",
    "kappa1",
    "kernel_derivatives",
    "normalized_residual_law",
    "normalized_residual_variance",
    "normalized_response_std",
    "paper_asymptote",
    "rectified_residual_gradient_moments",
    "residual_correlation",
    "residual_gradient_moments",
    "residual_law",
    "residual_variance",
    "tap_coverage",
    "taps_inside",
    "white_noise_acf",
]
