"""The table of data sets: the form of each name, its help text and its loader."""

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
    """A sequence of items that is read in slices.

    Attributes:
        name: The requested name.
        items: The kind of item: image, or sequence of tokens.
        classes: The number of classes; None for a data set without labels.
        normalized: Whether the items are network inputs already, as noise is.
        default_normalization: The normalization to use if the weights do not specify one.
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
            start: The index of the first item.
            stop: The index after the last item.
            size: The shape of one network input, for data sets without a fixed size.

        Returns:
            Images (B, C, H, W), uint8 or floating point, or tokens (B, T), int64; and the labels, (B,) or (B, T), or
            None.
        """

    def largest_label(self, stop: int) -> int | None:
        """Return the largest label of the items before `stop`; None for a data set without classes."""


@dataclass(frozen=True)
class Asked:
    """A request for a data set.

    Attributes:
        name: The whole name.
        path: The path within the name, if its form has one.
        seed: The seed of random data.
        shape: The shape of one network input, if it is known.
        vocabulary: The size of the network's vocabulary, if its inputs are tokens.
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
        form: The name, or a pattern in which PATH stands for a path, up to a colon that may follow.
        loader: The loader as `module:function`, imported on first use.
        about: The remark that help shows next to the form.
    """

    form: str
    loader: str
    about: str = ""

    def path(self, name: str) -> str | None:
        """The path in a name of this form, empty if the form has none; None if the name has another form."""
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
    Entry("boxes", "gradlab.data.boxes:load_boxes", "rectangles, for detectors"),
    Entry("tokens", "gradlab.data.tokens:load_tokens", "random"),
    Entry("tokens:markov", "gradlab.data.tokens:load_tokens", "a random chain"),
    Entry("text:PATH", "gradlab.data.tokens:load_text", "bytes of any file"),
    Entry("imagefolder:PATH", "gradlab.data.images:load_folder"),
    Entry("PATH.npz", "gradlab.data.images:load_arrays"),
    Entry("PATH.npz:train", "gradlab.data.images:load_arrays"),
)
"""All data sets; a name is read by the first form that it matches."""


def data_sets_help() -> str:
    """The names of all data sets, for help: `cifar10-sample (bundled), cifar10, …`."""
    return ", ".join(f"{entry.form} ({entry.about})" if entry.about else entry.form for entry in DATA_SETS)


def load_dataset(
    data: str, seed: int = 0, *, shape: tuple[int, ...] | None = None, vocabulary: int | None = None
) -> Dataset:
    """Find a data set by name.

    Args:
        data: A name of one of the forms in `DATA_SETS`.
        seed: The seed of random data.
        shape: The shape of one network input, if it is known; it sets the length of sequences of tokens.
        vocabulary: The size of the network's vocabulary, if its inputs are tokens.

    Raises:
        UsageError: If the name is unknown, the path does not exist, or the seed is out of range.
        GradlabError: If the data is missing or cannot be read.
    """
    for entry in DATA_SETS:
        if (path := entry.path(data)) is not None:
            # The home directory of an unknown user is not expanded, so the path does not exist.
            return entry.load(Asked(data, Path(os.path.expanduser(path)), seed, shape, vocabulary))
    *others, last = (entry.form for entry in DATA_SETS)
    raise UsageError(f"unknown data {data!r}: give {', '.join(others)} or {last}")
