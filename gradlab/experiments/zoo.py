"""The bundled weights: their list, their verification against the record, and the addition of a run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch

from gradlab.checkpoints import encode_checkpoint, file_digest
from gradlab.data.batching import batches
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.device import pick_device
from gradlab.experiments.request import Progress
from gradlab.networks import build
from gradlab.results.files import write_all
from gradlab.results.tables import Formats
from gradlab.stats.float32 import full_float32
from gradlab.training import RunFolder
from gradlab.zoo import RECORD, by_family_and_depth, zoo_folder, zoo_names, zoo_path, zoo_record

FORMATS: Formats = {
    **dict.fromkeys(("test error", "train error", "error", "of record"), "{:.2%}".format),
    "MB": "{:.2f}".format,
}


def list_zoo() -> tuple[pd.DataFrame, Formats]:
    """List the networks: recipe, errors on all of CIFAR-10, size, and whether the file has the record's digest.

    Returns:
        A frame with one row per network, and the formats of its columns.
    """
    record = zoo_record()
    rows = []
    for name in zoo_names():
        path, entry = zoo_path(name), record.get(name, {})
        assert path is not None
        rows.append(
            {
                "network": name,
                "recipe": entry.get("recipe"),
                "test error": entry.get("errors", {}).get("cifar10"),
                "train error": entry.get("errors", {}).get("cifar10-train"),
                "MB": path.stat().st_size / 1e6,
                "file": "as recorded" if file_digest(path) == entry.get("sha256") else "not that of the record",
            }
        )
    return pd.DataFrame(rows), FORMATS


def verify_zoo(
    data: str = "cifar10-sample", device: str = "auto", progress: Progress | None = None
) -> tuple[pd.DataFrame, Formats]:
    """Measure the error of every bundled network again and compare it with the record.

    Args:
        data: The data: `cifar10-sample`, `cifar10` or `cifar10-train`.
        device: The device of the computation.
        progress: A function called after every batch.

    Returns:
        A frame with one row per network, and the formats of its columns.

    Raises:
        UsageError: If the data is another.
        GradlabError: If a file or an error differs from the record; the error names the networks.
    """
    record = zoo_record()
    known = sorted({key for entry in record.values() for key in entry["errors"]})
    if data not in known:
        raise UsageError(f"the record has errors on {', '.join(known)}, not on {data!r}")
    rows, wrong = [], []
    for name in zoo_names():
        entry = record.get(name, {"errors": {}})
        path = zoo_path(name)
        error = error_rate(f"{name}@trained", data, device, progress)
        recorded = entry["errors"].get(data)
        # Rounding on another processor may change the class of one image in a thousand.
        same = recorded is not None and abs(error - recorded) <= 0.001 + 1e-12
        if not same or path is None or file_digest(path) != entry.get("sha256"):
            wrong.append(name)
        rows.append({"network": name, "data": data, "error": error, "of record": recorded})
    if wrong:
        raise GradlabError(f"not what the record says: {', '.join(wrong)}")
    return pd.DataFrame(rows), FORMATS


def add_to_zoo(run: str | Path, progress: Progress | None = None, *, folder: str | Path | None = None) -> Path:
    """Store a finished run's weights with parameters in float16, and record the errors of the stored file.

    Args:
        run: The folder of the run.
        progress: A function called after every batch of the measurement.
        folder: The folder for the file and the record, if it is not the zoo's.

    Returns:
        The path of the file.

    Raises:
        UsageError: If the run is not finished.
        GradlabError: If CIFAR-10 is missing.
    """
    record = RunFolder(run).record()
    if not record.get("complete"):
        raise UsageError(f"{run} holds no finished training: the same gradlab train goes on with it")
    name = record["network"]
    model = build(f"{name}@{Path(run) / 'checkpoint.pt'}")
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    facts = {key: record[key] for key in ("network", "normalization", "recipe")}
    file = f"{name}.safetensors"
    content = encode_checkpoint(model, facts)
    with TemporaryDirectory() as scratch:
        write_all(scratch, {file: content})
        errors = {
            data: error_rate(f"{name}@{Path(scratch) / file}", data, "auto", progress)
            for data in ("cifar10-sample", "cifar10", "cifar10-train")
        }
    options = record["options"]
    entry: dict[str, Any] = {
        **facts,
        "command": record["command"],
        "preset": options["recipe"]["preset"],
        "epochs": round(record["steps"] / (50_000 // options["recipe"]["batch_size"]), 2),
        "seed": options["seed"],
        "arithmetic": record["arithmetic"],
        "errors": errors,
        "device": record["device"],
        "versions": record["versions"],
        "wall_seconds": record["wall_seconds"],
        "utc": record["utc"],
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    whole = {**zoo_record(), name: entry}
    ordered = {network: whole[network] for network in sorted(whole, key=by_family_and_depth)}
    text = json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"
    return write_all(folder or zoo_folder(), {file: content, RECORD: text.encode()})[0]


@torch.no_grad()
@full_float32()
def error_rate(network: str, data: str, device: str = "auto", progress: Progress | None = None) -> float:
    """The fraction of images that a network misclassifies, in float32 with running statistics.

    Args:
        network: The network, as a specification for `gl.build`.
        data: A named data set with labels.
        device: The device of the computation.
        progress: A function called after every batch.
    """
    model = build(network, device=str(pick_device(device)))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stream = batches(data, 500, model)
    wrong, done = torch.zeros((), dtype=torch.long, device=stream.device), 0
    for images, labels in stream:
        assert labels is not None
        wrong += (model(images).argmax(1) != labels).sum()
        done += len(images)
        if progress is not None:
            progress(f"{network} on {data}", done, stream.count)
    return wrong.item() / stream.count
