"""Training: the paper's recipe on whole batches on the device, resumable to the bit."""

from gradlab.training.arithmetic import Arithmetic
from gradlab.training.dynamics import DynamicsRecorder, Recording
from gradlab.training.images import load_split
from gradlab.training.interruption import Interrupted
from gradlab.training.recipe import PRESETS, Recipe, preset
from gradlab.training.run_folder import RunFolder, read_training_checkpoint
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
    "load_split",
    "preset",
    "read_training_checkpoint",
    "require_tensorboard",
]
