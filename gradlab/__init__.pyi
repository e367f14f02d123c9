from . import models, plots, stats
from .checkpoints import read_checkpoint, save_checkpoint
from .data import batches
from .errors import GradlabError, UsageError
from .experiments import input_gradients, responses, shatter, shattering, train
from .models import batch_statistics
from .networks import build
from .normalization import Normalization
from .plots import theme
from .probes import InputGradients, ResponseStd, predicted_response_std
from .reporting import report
from .results import InputGradientsResult, ResponsesResult, Result, ShatterResult, TrainingResult
from .training import Recipe

__all__ = [
    "GradlabError",
    "InputGradients",
    "InputGradientsResult",
    "Normalization",
    "Recipe",
    "ResponseStd",
    "ResponsesResult",
    "Result",
    "ShatterResult",
    "TrainingResult",
    "UsageError",
    "batch_statistics",
    "batches",
    "build",
    "input_gradients",
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
