"""The look of figures, and access to all functions that draw a frame on matplotlib axes."""

import lazy_loader

_WHERE = {
    "plots.style": ["COLUMN_WIDTH", "PAGE_WIDTH", "theme"],
    "results.architectures.figure": ["architectures_figure"],
    "results.degradation.figure": ["last_errors_figure"],
    "results.dynamics.figure": ["dynamics_figure", "plot_layers_by_step"],
    "results.gradients.figure": ["gradients_figure", "plot_gradients", "plot_ratios"],
    "results.input_gradients.figure": ["input_gradients_figure", "plot_against_depth"],
    "results.responses.figure": ["plot_responses", "responses_figure"],
    "results.shatter.depth_figure": ["coactivation_figure", "correlation_figure"],
    "results.shatter.figure": ["acf_figure", "plot_acf", "signals_figure"],
    "results.shatter.theory_figure": ["theory_figure"],
    "results.training.figure": ["errors_figure", "plot_errors"],
}

# The figures are defined with their results, above this package, so nothing is imported before it is used.
__getattr__, __dir__, __all__ = lazy_loader.attach("gradlab", submod_attrs=_WHERE)
