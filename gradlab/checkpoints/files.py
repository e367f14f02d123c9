"""Reading of weight files, restricted to tensors, and writing of gradlab's own safetensors with a record."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradlab.checkpoints.archives import check_archive
from gradlab.checkpoints.choosing import split_key, state_dicts
from gradlab.checkpoints.declared import check_legacy
from gradlab.checkpoints.digests import tensors_digest
from gradlab.checkpoints.wording import reason, shown, some
from gradlab.errors import GradlabError, UsageError
from gradlab.facts import network_of
from gradlab.results.files import write_atomically

RECORD_KEY = "gradlab"
DIGEST_KEY = "gradlab-sha256"
"""The key of the digest of all tensors, in the metadata of safetensors."""


def save_checkpoint(model: nn.Module, path: str | Path, record: Mapping[str, Any] | None = None) -> None:
    """Write a model's parameters and buffers as safetensors, with a record of how they were made.

    Args:
        model: Any module.
        path: The path of the file, which ends in `.safetensors`; an existing file is replaced atomically.
        record: Any JSON-serializable values; `network`, `normalization` and `recipe` are used when it is read back.

    Raises:
        UsageError: If the path does not end in `.safetensors`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"{shown(path)}: gradlab writes weights as safetensors, so the name must end in .safetensors")
    write_atomically(path, encode_checkpoint(model, record))


def encode_checkpoint(model: nn.Module, record: Mapping[str, Any] | None = None) -> bytes:
    """Encode a model as `save_checkpoint` writes it, with separate values for each name even if the model shares them.

    Raises:
        GradlabError: If safetensors cannot represent an entry of the state dict, which the message names.
    """
    network = network_of(model)
    known = {} if network is None else {"network": network.name, "normalization": network.normalization}
    tensors: dict[str, Tensor] = {}
    stored: set[int] = set()
    for name, value in model.state_dict().items():
        plain = _plain(name, value)
        # safetensors refuses tensors that share memory: tied weights, a layer used twice, views of one tensor.
        tensors[name] = plain.clone() if plain.untyped_storage().data_ptr() in stored else plain
        stored.add(tensors[name].untyped_storage().data_ptr())
    metadata = {
        RECORD_KEY: json.dumps({**known, **(record or {})}, sort_keys=True),
        DIGEST_KEY: tensors_digest(dict(sorted(tensors.items()))),
    }
    try:
        return safetensors.torch.save(tensors, metadata)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise GradlabError(f"{type(model).__name__} cannot be written as safetensors: {reason(error)}") from None


def _plain(name: str, value: object) -> Tensor:
    """Return an entry of a state dict as a contiguous dense tensor on the CPU."""
    if not isinstance(value, Tensor):
        kind = f"no tensor but {type(value).__name__}"
    elif is_lazy(value):
        kind = "not initialized before the first forward pass: run the model once"
    elif value.is_meta:
        kind = "on the meta device, without values"
    elif value.is_quantized or value.layout != torch.strided:
        kind = "quantized" if value.is_quantized else f"of layout {str(value.layout).removeprefix('torch.')}"
    else:
        return value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    raise GradlabError(f"{name} cannot be written as safetensors: it is {kind}")


def read_checkpoint(path: str | Path, key: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict and its record from any of the usual formats.

    Only tensors are read, with `weights_only=True` or from safetensors. Wrappers (`state_dict`, `model`, …) are
    removed, while names are returned as stored; `gl.build` removes prefixes (`module.`, `_orig_mod.`, …) that the
    network does not have.

    Args:
        path: The path of a `.pth`, `.th`, `.pt` or `.safetensors` file, or `PATH:KEY`.
        key: The keys of one state dict in a file with several, joined by dots; by default the usual key.

    Returns:
        The state dict, on the CPU, and gradlab's record, which is empty for a file of another project.

    Raises:
        UsageError: If there is no such file or key, or a key is needed to select one of several state dicts.
        GradlabError: If the file is damaged, is no checkpoint, or could be read only by running code from it.
    """
    file, inside = (Path(path), "") if key else split_key(str(path))
    content, record = read_content(file)
    found = state_dicts(content, key or inside, file)
    if len(found) > 1 and not found[0].usual and found[0].key:
        raise UsageError(
            f"{shown(file)} holds several state dicts, {some([f.key for f in found])}: give the key of one"
        )
    return found[0].state, record


def read_content(path: str | Path) -> tuple[object, dict[str, Any]]:
    """Read the whole content of a file as mappings and tensors, with its record; see `read_checkpoint`.

    Raises:
        UsageError: If there is no such file.
        GradlabError: If the file is damaged, is no checkpoint, or could be read only by running code from it.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise UsageError(f"{shown(path)} is a folder; give a checkpoint file")
    if not os.path.exists(path):
        raise UsageError(f"{shown(path)} does not exist")
    if not os.path.isfile(path):
        raise UsageError(f"{shown(path)} is not a regular file")
    if path.name.endswith(".index.json"):
        raise UsageError(
            f"{shown(path)} lists the parts of weights that are in several files, and one file is read: save the whole "
            "state_dict() in one"
        )
    content, record = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not all(isinstance(record.get(key), str | None) for key in ("network", "recipe", "normalization")):
        raise GradlabError(f"{shown(path)} has a damaged record: network, recipe and normalization are texts")
    return content, record


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            record = json.loads(metadata.get(RECORD_KEY, "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # for damaged headers, its reader and json raise errors of their own, and RecursionError
        raise GradlabError(f"{shown(path)} is damaged or no safetensors file: {reason(error)}") from None
    # The format has no sums of its own; files of other programs are taken as they are.
    if DIGEST_KEY in metadata and metadata[DIGEST_KEY] != tensors_digest(dict(sorted(state.items()))):
        raise GradlabError(f"{shown(path)} is damaged: its values do not have the sha256 with which they were written")
    return state, record if isinstance(record, dict) else {}


def _read_torch(path: Path) -> tuple[object, dict[str, Any]]:
    content = read_torch_file(path)
    record = content.get(RECORD_KEY, {}) if isinstance(content, Mapping) else {}
    return content, record if isinstance(record, dict) else {}


def read_torch_file(path: Path) -> Any:
    """Read a file written by `torch.save` as tensors only, on the CPU, after checking its checksums and bounds.

    Raises:
        GradlabError: If the file is damaged, requests more memory than it fills, or needs code to be run.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
            if start != b"PK" and start[:1] != b"\x80":
                raise GradlabError("is no checkpoint: it is neither a torch file nor named .safetensors")
            if start != b"PK":
                file.seek(0)
                check_legacy(file, path.stat().st_size)
        if start == b"PK":
            check_archive(path)
        with warnings.catch_warnings():
            # The warnings concern unusual pickle protocols; unreadable files raise an error below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except GradlabError as error:
        raise GradlabError(f"{shown(path)} {error}") from None
    except pickle.UnpicklingError as error:
        said = reason(error)
        if "weights" in said.lower() or "unsupported" in str(error).lower():
            raise GradlabError(
                f"{shown(path)} is refused: reading it needs pickle, which can run code ({_blamed(str(error))}); "
                "save its state_dict() alone, or as safetensors"
            ) from None
        raise GradlabError(f"{shown(path)} is damaged: {said}") from None
    except Exception as error:  # torch, pickle and zipfile may raise anything for unreadable data
        raise GradlabError(f"{shown(path)} is damaged or cut short: {reason(error)}") from None


def _blamed(message: str) -> str:
    """Extract from torch's message the global name that the file wants to call."""
    for line in message.splitlines():
        if "GLOBAL" in line:
            return some([" ".join(line.split("GLOBAL", 1)[1].split()[:1])])
    return "it holds more than tensors"
