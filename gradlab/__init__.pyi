from . import callbacks, models, plots, stats
from .checkpoints import read_checkpoint, save_checkpoint
from .data.batching import batches
from .errors import GradlabError, UsageError
from .experiments.degradation import degradation
from .experiments.dynamics import dynamics
from .experiments.gradients.gradients import gradients
from .experiments.input_gradients.input_gradients import input_gradients
from .experiments.responses.responses import responses
from .experiments.shatter.shatter import shatter
from .experiments.shatter.shattering import shattering
from .experiments.train import train
from .models import batch_statistics
from .networks import build
from .normalization import Normalization
from .plots import theme
from .probes import (
    BlockSignal,
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
from .probes.watch import Watch, watch
from .reporting import report
from .results import (
    DegradationResult,
    DynamicsResult,
    GradientsResult,
    InputGradientsResult,
    ResponsesResult,
    Result,
    ShatterResult,
    SignalResult,
    TrainingResult,
)
from .training import Recipe

__all__ = [
    "BlockSignal",
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
    "SignalResult",
    "TrainingResult",
    "UsageError",
    "Watch",
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
    "watch",
]

__version__: str
