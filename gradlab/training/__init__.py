"""Training by the paper's recipe, with batches prepared on the device, resumable bit for bit."""

from gradlab.training.arithmetic import Arithmetic
from gradlab.training.dynamics import DynamicsRecorder, Recording
from gradlab.training.images import load_split
from gradlab.training.interruption import Interrupted
from gradlab.training.recipe import PRESETS, Recipe, check_run, preset
from gradlab.training.run_folder import RunFolder, check_tables
from gradlab.training.saved import read_training_checkpoint
from gradlab.training.tensorboard import TensorBoard, require_tensorboard
from gradlab.training.trainer import Status, Trainer

__all__ = [
    "PRESETS",
    "Arithmetic",
    "DynamicsRecorder",
    "Interrupted",
    "Recipe",
    "Recording",
    "RunFolder",
    "Status",
    "TensorBoard",
    "Trainer",
    "check_run",
    "check_tables",
    "load_split",
    "preset",
    "read_training_checkpoint",
    "require_tensorboard",
]
