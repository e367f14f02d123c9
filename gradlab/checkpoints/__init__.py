"""Reading and writing of weights: state dicts of other projects, and gradlab's own safetensors with a record."""

from gradlab.checkpoints.choosing import StateDict, split_key, state_dicts
from gradlab.checkpoints.digests import file_digest, weights_digest
from gradlab.checkpoints.files import encode_checkpoint, read_checkpoint, read_content, read_torch_file, save_checkpoint
from gradlab.checkpoints.fitting import bare, own_names
from gradlab.checkpoints.loading import Loaded, load_weights

__all__ = [
    "Loaded",
    "StateDict",
    "bare",
    "encode_checkpoint",
    "file_digest",
    "load_weights",
    "own_names",
    "read_checkpoint",
    "read_content",
    "read_torch_file",
    "save_checkpoint",
    "split_key",
    "state_dicts",
    "weights_digest",
]
