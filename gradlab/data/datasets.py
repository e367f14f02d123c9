"""The data sets by name, in one table: what a name looks like, what it says in help, and what loads it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from gradlab.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Items = Literal["images", "tokens"]


class Dataset(Protocol):
    """Items that can be read a slice at a time.

    Attributes:
        name: The name that was asked for.
        items: What one item is: an image, or a sequence of tokens.
        classes: The number of classes; None without labels.
        normalized: Whether the items already are network inputs, as noise is.
        default_normalization: The spec to use where the weights say nothing.
    """

    name: str
    items: Items
    classes: int | None
    normalized: bool
    default_normalization: str

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Read the items from `start` to before `stop`.

        Args:
            start: The first item.
            stop: The item after the last.
            size: The shape of one input of the network, for data that has no size of its own.

        Returns:
            Images (B, C, H, W), uint8 or floating point, or tokens (B, T), int64; and labels, (B,) or one for every
            token, or None.
        """


@dataclass(frozen=True)
class Asked:
    """A data set as it is asked for.

    Attributes:
        name: The whole name.
        path: The path in it, where its form has one.
        seed: The seed of what is drawn.
        shape: The shape of one input of the network, where that is known.
        vocabulary: The number of tokens that the network takes, where it takes tokens.
    """

    name: str
    path: Path
    seed: int
    shape: tuple[int, ...] | None = None
    vocabulary: int | None = None


@dataclass(frozen=True)
class Entry:
    """One kind of data set.

    Attributes:
        form: The name, or what a name looks like: PATH stands for a path, up to a colon that may follow.
        loader: `module:function` of what loads it, imported when it is first needed.
        about: What help says of it beside its form.
    """

    form: str
    loader: str
    about: str = ""

    def path(self, name: str) -> str | None:
        """The path in a name of this form, empty where the form has none; None for another name."""
        before, placeholder, after = self.form.partition("PATH")
        if not placeholder:
            return "" if name == self.form else None
        suffix, colon, part = after.partition(":")
        path = name.removeprefix(before).removesuffix(colon + part)
        return path if name == before + path + colon + part and path.endswith(suffix) else None

    def load(self, asked: Asked) -> Dataset:
        """Load the data set."""
        module, _, function = self.loader.partition(":")
        load: Callable[[Asked], Dataset] = getattr(importlib.import_module(module), function)
        return load(asked)


DATA_SETS = (
    Entry("cifar10-sample", "gradlab.data.images:load_sample", "bundled"),
    Entry("cifar10", "gradlab.data.images:load_cifar"),
    Entry("cifar10-train", "gradlab.data.images:load_cifar"),
    Entry("cifar100", "gradlab.data.images:load_cifar"),
    Entry("cifar100-train", "gradlab.data.images:load_cifar"),
    Entry("noise", "gradlab.data.images:load_noise", "of any shape"),
    Entry("tokens", "gradlab.data.tokens:load_tokens", "random"),
    Entry("tokens:markov", "gradlab.data.tokens:load_tokens", "a random chain"),
    Entry("text:PATH", "gradlab.data.tokens:load_text", "bytes of any file"),
    Entry("imagefolder:PATH", "gradlab.data.images:load_folder"),
    Entry("PATH.npz", "gradlab.data.images:load_arrays"),
    Entry("PATH.npz:train", "gradlab.data.images:load_arrays"),
)
"""Every data set there is; a name is read by the first form that it fits."""


def data_sets_help() -> str:
    """The names of all data sets, for help: `cifar10-sample (bundled), cifar10, …`."""
    return ", ".join(f"{entry.form} ({entry.about})" if entry.about else entry.form for entry in DATA_SETS)


def load_dataset(
    data: str, seed: int = 0, *, shape: tuple[int, ...] | None = None, vocabulary: int | None = None
) -> Dataset:
    """Find a data set by name.

    Args:
        data: The name, as `DATA_SETS` lists them.
        seed: The seed of what is drawn.
        shape: The shape of one input of the network, where that is known: sequences of tokens are as long.
        vocabulary: The number of tokens that the network takes, where it takes tokens.

    Raises:
        UsageError: For an unknown name, a path that is not there, or a seed out of bounds.
        GradlabError: When the data is not there or cannot be read.
    """
    for entry in DATA_SETS:
        if (path := entry.path(data)) is not None:
            # The home of an unknown user stays as it is written, and is not there.
            return entry.load(Asked(data, Path(os.path.expanduser(path)), seed, shape, vocabulary))
    *others, last = (entry.form for entry in DATA_SETS)
    raise UsageError(f"unknown data {data!r}: give {', '.join(others)} or {last}")
