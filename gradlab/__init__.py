"""Gradient dynamics of deep networks in PyTorch, exactly as the papers define them.

Networks: `build` makes any network by name, with its weights; `models` holds the papers' own.
Data: `batches` gives a named data set, normalized as a network wants it; `Normalization` says how.
Probes: `ResponseStd` and `InputGradients` measure while your own code runs the model; `ParameterGradients`,
`ResponseGradients` and `ExampleGradients` while it trains, at every step or on a schedule (`log_spaced`), and in
other libraries' loops by `callbacks`; `predicted_response_std` needs no data. `find_nonfinite`
names the layer and the operation where a batch first gives NaN or infinity, `NonfiniteOrigin` in a training loop.
Experiments: `responses`, `gradients` and `shatter` do what the commands of the same names do, `input_gradients` what
`shatter` does on images; `shattering` measures a function of your own. `train` trains by a `Recipe`, `dynamics`
joins what runs recorded of their layers, `degradation` trains plain and residual nets across depth.
Results: `ResponsesResult`, `ShatterResult`, `InputGradientsResult`, `GradientsResult`, `TrainingResult`,
`DynamicsResult` and `DegradationResult` hold tidy frames and their record; they save, load and plot themselves;
`report` makes one HTML page of several.
Statistics: `stats` holds the mathematics, tensors in, numbers out.

Nothing is imported before it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
