from . import callbacks, models, plots, stats
from .checkpoints import read_checkpoint, save_checkpoint
from .data.batching import batches
from .errors import GradlabError, UsageError
from .experiments import degradation, dynamics, gradients, input_gradients, responses, shatter, shattering, train
from .models import batch_statistics
from .networks import build
from .normalization import Normalization
from .plots import theme
from .probes import (
    ExampleGradients,
    InputGradients,
    NonfiniteOrigin,
    ParameterGradients,
    ResponseGradients,
    ResponseStd,
    find_nonfinite,
    log_spaced,
    predicted_response_std,
)
from .reporting import report
from .results import (
    DegradationResult,
    DynamicsResult,
    GradientsResult,
    InputGradientsResult,
    ResponsesResult,
    Result,
    ShatterResult,
    TrainingResult,
)
from .training import Recipe

__all__ = [
    "DegradationResult",
    "DynamicsResult",
    "ExampleGradients",
    "GradientsResult",
    "GradlabError",
    "InputGradients",
    "InputGradientsResult",
    "NonfiniteOrigin",
    "Normalization",
    "ParameterGradients",
    "Recipe",
    "ResponseGradients",
    "ResponseStd",
    "ResponsesResult",
    "Result",
    "ShatterResult",
    "TrainingResult",
    "UsageError",
    "batch_statistics",
    "batches",
    "build",
    "callbacks",
    "degradation",
    "dynamics",
    "find_nonfinite",
    "gradients",
    "input_gradients",
    "log_spaced",
    "models",
    "plots",
    "predicted_response_std",
    "read_checkpoint",
    "report",
    "responses",
    "save_checkpoint",
    "shatter",
    "shattering",
    "stats",
    "theme",
    "train",
]

__version__: str
