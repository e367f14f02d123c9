"""Weights published by other projects, which are downloaded once and identified by their digests."""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import torch
from torch import nn

from gradlab.checkpoints import file_digest
from gradlab.checkpoints.wording import reason
from gradlab.errors import GradlabError, UsageError


@dataclass(frozen=True)
class Published:
    """One published file of weights.

    Attributes:
        network: The name of the network.
        file: The name of the file in the cache.
        sha256: The first digits of the file's sha256.
        recipe: The project that trained it; networks with the same recipe can be compared.
        normalization: The normalization of the images in training.
        url: The address of the file; None for a file that is only recognized.
        test_error: Our measurement of the error on CIFAR-10's test images in percent; None if not measured.
    """

    network: str
    file: str
    sha256: str
    recipe: str
    normalization: str
    url: str | None = None
    test_error: float | None = None


def _akamaster(depth: int, sha256: str, test_error: float | None = None) -> Published:
    file = f"resnet{depth}-{sha256}.th"
    return Published(
        network=f"resnet{depth}",
        file=file,
        sha256=sha256,
        recipe="akamaster/pytorch_resnet_cifar10",
        normalization="imagenet",
        url=f"https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/{file}",
        test_error=test_error,
    )


PUBLISHED = (
    _akamaster(20, "12fca82f", 8.27),
    _akamaster(32, "d509ac18"),
    _akamaster(44, "014dd654"),
    _akamaster(56, "4bfd9763", 6.61),
    _akamaster(110, "1d1ed7c2"),
    _akamaster(1202, "f3b1deed"),
    # The Caffe model of junyuseu/ResNet-on-Cifar10, converted; it is recognized when given as a path.
    Published(
        network="plain20",
        file="caffe-plain20.pth",
        sha256="4811fee4bc3fa538",
        recipe="junyuseu/ResNet-on-Cifar10",
        normalization="mean-image:255",
        test_error=9.91,
    ),
)


def published(network: str) -> Published | None:
    """Return the downloadable weights of one of our networks, or None."""
    return next((p for p in PUBLISHED if p.network == network and p.url), None)


def recognise(digest: str) -> Published | None:
    """Return the published file with a sha256, whatever its name, or None."""
    return next((p for p in PUBLISHED if digest.startswith(p.sha256)), None)


def torchvision_weights(name: str, choice: str) -> Published:
    """Describe a member of a torchvision weight enum as a published file.

    Args:
        name: The network's name in torchvision.
        choice: The name of a member, such as `IMAGENET1K_V1`, or `DEFAULT`.

    Raises:
        UsageError: If torchvision has no such weights. The message lists those that exist.
    """
    from torchvision import models

    enum: Any = models.get_model_weights(name)
    members = list(enum.__members__)
    if choice not in members and choice != "DEFAULT":
        near = difflib.get_close_matches(choice, members, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"torchvision/{name} has the weights {', '.join(members)}, not {choice}{hint}")
    weights = enum[choice] if choice in members else enum.DEFAULT
    transform = weights.transforms()
    mean, std = (",".join(map(str, getattr(transform, part))) for part in ("mean", "std"))
    file = weights.url.rsplit("/", 1)[-1]
    return Published(
        network=f"torchvision/{name}",
        file=file,
        sha256=file.rsplit("-", 1)[-1].partition(".")[0],
        recipe=f"torchvision {weights.name}",
        normalization=f"{mean}/{std}",
        url=weights.url,
    )


def timm_pretrained(name: str) -> nn.Module:
    """Build a timm network with the weights that timm publishes.

    Args:
        name: The network's name in timm.

    Raises:
        GradlabError: If the weights cannot be downloaded.
    """
    import timm

    try:
        model = cast(Any, timm.create_model(name, pretrained=True))
    except Exception as error:  # the hub client raises errors of its own
        raise GradlabError(f"timm/{name}: its published weights could not be loaded ({reason(error)})") from None
    model.input_shape = tuple(model.pretrained_cfg["input_size"])
    return cast(nn.Module, model)


def timm_normalization(model: Any) -> str:
    """Return the specification of the normalization with which a timm network was trained."""
    config = model.pretrained_cfg
    return "/".join(",".join(map(str, config[part])) for part in ("mean", "std"))


def cache_folder() -> Path:
    """Return the folder of torch's hub cache."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(entry: Published) -> Path:
    """Return the path of a file in torch's hub cache, downloading it if necessary, and check its digest.

    Raises:
        GradlabError: If there is no internet connection, or the file is not the published one.
    """
    folder = cache_folder()
    path = folder / entry.file
    if not path.exists():
        if entry.url is None:
            raise GradlabError(f"{entry.file} is not published for download: give its path")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(entry.url, str(path), hash_prefix=entry.sha256, progress=sys.stderr.isatty())
        except (URLError, OSError) as error:
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise GradlabError(
                f"{entry.file} is not in {folder} and could not be downloaded ({why}): put the file there, "
                f"from {entry.url}"
            ) from None
        except RuntimeError as error:
            raise GradlabError(f"{entry.url} is not the published file: {reason(error)}") from None
    if not file_digest(path).startswith(entry.sha256):
        size = os.path.getsize(path)
        raise GradlabError(
            f"{path} ({size:,} bytes) is not the published file: its sha256 does not start with {entry.sha256}; "
            "delete it to download it again"
        )
    return path
