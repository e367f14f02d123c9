"""Weights in and out: state dicts as others write them, and gradlab's own safetensors with a record."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gradlab.errors import GradlabError, UsageError
from gradlab.models import Architecture, infer_architectures
from gradlab.results.files import write_atomically

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "ema", "ema_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
RECORD_KEY = "gradlab"


def save_checkpoint(model: nn.Module, path: str | Path, record: Mapping[str, Any] | None = None) -> None:
    """Write a model's parameters and buffers as safetensors, with a record of how they were made.

    Args:
        model: Any module.
        path: Ends in `.safetensors`; an older file is replaced whole or not at all.
        record: Anything JSON can hold: `network`, `normalization`, `recipe` and the like are read back.

    Raises:
        UsageError: When the path does not end in `.safetensors`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: gradlab writes weights as safetensors, so the name must end in .safetensors")
    write_atomically(path, encode_checkpoint(model, record))


def encode_checkpoint(model: nn.Module, record: Mapping[str, Any] | None = None) -> bytes:
    """The bytes that `save_checkpoint` writes."""
    network = getattr(model, "network", None)
    known = {} if network is None else {"network": network.name, "normalization": network.normalization}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {RECORD_KEY: json.dumps({**known, **(record or {})}, sort_keys=True)}
    return safetensors.torch.save(tensors, metadata)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict and the record beside it, from any of the usual formats.

    Tensors only are read: `weights_only=True`, or safetensors. Wrappers (`state_dict`, `model`, …) and
    prefixes (`module.`, `_orig_mod.`, …) are taken off.

    Args:
        path: A `.pth`, `.th`, `.pt` or `.safetensors` file.

    Returns:
        The state dict, on the CPU, and gradlab's record (empty for a file of another project).

    Raises:
        UsageError: When there is no such file.
        GradlabError: When it is damaged, no checkpoint, or can be read only by running code out of it.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a checkpoint file")
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if not path.is_file():
        raise UsageError(f"{path} is no regular file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state, record = content
    if not all(isinstance(record.get(key), str | None) for key in ("network", "recipe", "normalization")):
        raise GradlabError(f"{path} has a damaged record: network, recipe and normalization are texts")
    if not state:
        raise GradlabError(f"{path} holds no state dict: no tensors by name, nor under {', '.join(WRAPPERS)}")
    return _strip_prefixes(state), record


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(RECORD_KEY, "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, record if isinstance(record, dict) else {}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise GradlabError(f"{path} is damaged or no safetensors file: {error}") from None


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":
        raise GradlabError(f"{path} is no checkpoint: it is neither a torch file nor named .safetensors")
    try:
        with warnings.catch_warnings():
            # About pickle protocols that others write; what cannot be read is an error below.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split("\n")[0].split())
        if "TorchScript" in str(error):
            raise GradlabError(f"{path} is a TorchScript archive: save the state_dict() of its module") from None
        if "weights" in reason.lower() or "unsupported" in str(error).lower():
            raise GradlabError(
                f"{path} is refused: reading it needs pickle, which can run code ({_blamed(str(error))}); "
                "save its state_dict() alone, or as safetensors"
            ) from None
        raise GradlabError(f"{path} is damaged: {reason}") from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        AttributeError,
    ) as error:
        reason = str(error).split("\n")[0]
        raise GradlabError(f"{path} is damaged or cut short: {reason}") from None
    record = content.get(RECORD_KEY, {}) if isinstance(content, Mapping) else {}
    return _unwrap(content), record if isinstance(record, dict) else {}


def _blamed(message: str) -> str:
    """What the file asked to call, out of torch's message."""
    for line in message.splitlines():
        if "GLOBAL" in line:
            return " ".join(line.split("GLOBAL", 1)[1].split()[:1])
    return "it holds more than tensors"


def _unwrap(content: object) -> dict[str, Tensor]:
    for _ in range(4):
        if not isinstance(content, Mapping):
            return {}
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            return {k: v for k, v in content.items() if isinstance(v, Tensor) and isinstance(k, str)}
        content = inner
    return {}


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that every key has."""
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under our networks' key names: `linear` is `fc`, `downsample` is `shortcut`."""
    names = (re.sub(r"^linear\.", "fc.", key.replace(".downsample.", ".shortcut.")) for key in state)
    return dict(zip(names, state.values(), strict=True))


def check_architecture(asked: Architecture, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Hold a state dict against the name it was given under.

    What a state dict does not show is taken from the name: scales, the order within most residual units, and whether a
    net without projections is plain.

    Args:
        asked: What the name says.
        state: Parameters and buffers under our key names.
        path: Named in the error.

    Raises:
        UsageError: When the file holds another network, or one that is none of ours; it names both.
    """
    found = infer_architectures(state)
    if not found:
        some = ", ".join(list(state)[:3])
        raise UsageError(f"{path} is not a {asked.name}: its layers ({some}, …) are those of none of our networks")
    if asked.shown not in found:
        names = " or ".join(architecture.name for architecture in found)
        raise UsageError(f"{path} holds {names}, not {asked.name}")


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: str | Path, name: str) -> None:
    """Load a state dict, all of it; a missing `num_batches_tracked` is no fault.

    Args:
        model: The network to fill.
        state: Parameters and buffers under its key names.
        path: Where they come from, for errors.
        name: What the network is called, for errors.

    Raises:
        UsageError: When keys or shapes differ; it names the first ones.
    """
    own = model.state_dict()
    given = {k: v for k, v in state.items() if k in own or not k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    extra = [k for k in given if k not in own]
    wrong = [
        f"{k} is {tuple(given[k].shape)} and not {tuple(own[k].shape)}"
        for k in own
        if k in given and own[k].shape != given[k].shape
    ]
    if complex_ones := [k for k, value in given.items() if value.is_complex()]:
        wrong.append(f"{_some(complex_ones)} is complex")
    faults = [
        *([f"it lacks {_some(missing)}"] if missing else []),
        *([f"it has {_some(extra)} too"] if extra else []),
        *([_some(wrong)] if wrong else []),
    ]
    if faults:
        raise UsageError(f"{path} does not fit {name}: {'; '.join(faults)}")
    model.load_state_dict(given, strict=False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def file_digest(path: str | Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(model: nn.Module) -> str:
    """The sha256 over names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
