"""Gradient dynamics of deep networks in PyTorch, exactly as the papers define them.

Networks: `build` makes any network by name, with its weights; `models` holds the networks of the papers.
Data: `batches` yields a named data set, normalized as a network expects it; `Normalization` defines normalizations.
Probes: `ResponseStd` and `InputGradients` measure while your own code runs the model; `ParameterGradients`,
`ResponseGradients` and `ExampleGradients` measure while it trains, at every step or on a schedule (`log_spaced`), and
in other libraries' loops through `callbacks`; `predicted_response_std` needs no data. `find_nonfinite` names the layer
and the operation where a batch first produces NaN or infinity; `NonfiniteOrigin` does so in a training loop.
`watch` records all of these by layer while a training loop runs as it is, says what is wrong with it, and writes to
files and dashboards (`sinks`).
Experiments: `responses`, `gradients` and `shatter` are the commands of the same names, and `input_gradients` is
`shatter` on images; `shattering` measures a function of your own. `train` trains with a `Recipe`, `dynamics` joins the
layer statistics that runs recorded, and `degradation` trains plain and residual nets across depth.
`coordinate_check` fits how responses and their changes scale with width and depth.
Results: `ResponsesResult`, `ShatterResult`, `InputGradientsResult`, `GradientsResult`, `TrainingResult`,
`DynamicsResult` and `DegradationResult` hold tidy frames and their records, which they save, load and plot; `report`
combines several results in one HTML page.
Statistics: `stats` holds the mathematics, as functions of tensors.

Every name is imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
