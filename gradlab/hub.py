"""Weights that other projects publish: downloaded once, checked, and known by their digest."""

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
        network: The name of the network it holds.
        file: Its name in the cache.
        sha256: The start of its digest.
        recipe: Who trained it; networks of one recipe can be compared.
        normalization: What its images went through in training.
        url: Where it is; None for a file that is only recognised.
        test_error: Percent on CIFAR-10's test images, as measured by us; None where we have not.
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
    # The Caffe model of junyuseu/ResNet-on-Cifar10, converted; recognised when given as a path.
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
    """The published weights of one of our networks that can be downloaded, if any."""
    return next((p for p in PUBLISHED if p.network == network and p.url), None)


def recognise(digest: str) -> Published | None:
    """The published file with this sha256, whatever it is called."""
    return next((p for p in PUBLISHED if digest.startswith(p.sha256)), None)


def torchvision_weights(name: str, choice: str) -> Published:
    """A torchvision weight enum as a published file.

    Args:
        name: torchvision's name of the network.
        choice: A member such as `IMAGENET1K_V1`, or `DEFAULT`.

    Raises:
        UsageError: When torchvision has no such weights; it lists those it has.
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
    """A network of timm's with the weights that timm publishes.

    Args:
        name: Its name in timm.

    Raises:
        GradlabError: When they cannot be had.
    """
    import timm

    try:
        model = cast(Any, timm.create_model(name, pretrained=True))
    except Exception as error:  # the hub client raises kinds of its own
        raise GradlabError(f"timm/{name}: its published weights could not be had ({reason(error)})") from None
    model.input_shape = tuple(model.pretrained_cfg["input_size"])
    return cast(nn.Module, model)


def timm_normalization(model: Any) -> str:
    """What the images of a network of timm's went through in training, as a normalization's text."""
    config = model.pretrained_cfg
    return "/".join(",".join(map(str, config[part])) for part in ("mean", "std"))


def cache_folder() -> Path:
    """Where torch's hub keeps what it downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(entry: Published) -> Path:
    """The file in torch's hub cache, downloaded when it is not there; its digest is checked either way.

    Raises:
        GradlabError: Without network, or when the file is not the published one.
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
