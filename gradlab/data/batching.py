"""Named data sets as batches on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from gradlab.data.datasets import Dataset, load_dataset
from gradlab.errors import UsageError
from gradlab.facts import input_shape_of, name_of, normalization_of, vocabulary_of
from gradlab.normalization import Normalization
from gradlab.transfer import uploaded

DEFAULT, DEFAULT_TOKENS = "cifar10-sample", "tokens"
"""The default data sets, for networks of images and for networks of tokens."""


@dataclass(frozen=True)
class Batches:
    """An iterable of (images, labels) or (tokens, labels); labels are None if the data set has none.

    Attributes:
        dataset: The data set from which batches are read.
        batch_size: The number of images in a batch; the last batch may have fewer.
        count: The total number of images.
        normalization: The normalization applied to every batch; None for data that needs none.
        device: The device of the batches.
        input_shape: The shape of one input, for data sets without a fixed size.
        dtype: The dtype of the images, in which they are also normalized; None means float32 for images stored as
            bytes. Tokens keep their dtype.
        instead_of: The data set that was named, if the network takes another one by default; None if it was read.
    """

    dataset: Dataset
    batch_size: int
    count: int
    normalization: Normalization | None
    device: torch.device
    input_shape: tuple[int, ...]
    dtype: torch.dtype | None = None
    instead_of: str | None = None

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    @cached_property
    def largest_label(self) -> int | None:
        """The largest label, found on the CPU; None for data without classes."""
        return self.dataset.largest_label(self.count)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            images, labels = self.dataset.read(start, stop, self.input_shape)
            images = uploaded(images, self.device)
            if self.normalization is not None:
                images = self.normalization(images, self.dtype)
            elif self.dtype is not None and images.is_floating_point():
                images = images.to(self.dtype)
            yield images, None if labels is None else uploaded(labels, self.device)


def batches(
    data: str = DEFAULT,
    batch_size: int = 128,
    model: nn.Module | None = None,
    *,
    device: str | torch.device | None = None,
    images: int | None = None,
    normalize: str | Normalization | None = None,
    seed: int = 0,
) -> Batches:
    """A named data set as normalized batches on a device.

    Args:
        data: `cifar10-sample` (bundled), `cifar10`, `cifar10-train`, `cifar100`, `imagefolder:PATH`,
            `PATH.npz` (`PATH.npz:train` for its training part), `noise`, `tokens`, `tokens:markov` or `text:PATH`. For
            a network of tokens the default is `tokens`.
        batch_size: The number of images in a batch.
        model: The network whose device and whose `normalization`, `input_shape` and `vocabulary`, as set by
            `gl.build`, are used.
        device: The device of the batches; by default the model's device, or the CPU without a model.
        images: The number of images to take from the beginning of the data set; None takes all.
        normalize: A normalization that overrides the model's (see `Normalization`).
        seed: The seed of `noise` and of tokens.

    Raises:
        UsageError: If the data set or normalization is unknown, the number of images is out of range, or images are
            given to a network of tokens or tokens to a network of images.
        GradlabError: If the data is missing or cannot be read.
    """
    dataset = _dataset(data, seed, model)
    if images is not None and not 1 <= images <= len(dataset):
        raise UsageError(f"images must be from 1 to {len(dataset):,}, as many as {data} has; got {images}")
    if batch_size < 1:
        raise UsageError(f"batch size must be at least 1; got {batch_size}")
    if device is None:
        parameter = None if model is None else next(model.parameters(), None)
        device = "cpu" if parameter is None else parameter.device
    chosen = normalize or normalization_of(model) or dataset.default_normalization
    if isinstance(chosen, str):
        chosen = Normalization(chosen)
    return Batches(
        dataset=dataset,
        batch_size=batch_size,
        count=images or len(dataset),
        normalization=None if dataset.normalized else chosen,
        device=torch.device(device),
        input_shape=input_shape_of(model) or (3, 32, 32),
        instead_of=None if _name_for(data, model) == data else data,
    )


def _dataset(data: str, seed: int, model: nn.Module | None) -> Dataset:
    """The data set of that name, after checking that it fits the input of the network."""
    shape, vocabulary = input_shape_of(model), vocabulary_of(model)
    data = _name_for(data, model)
    dataset = load_dataset(data, seed, shape=shape, vocabulary=vocabulary)
    if vocabulary is not None and dataset.items == "images":
        raise UsageError(f"{data} holds images, and {name_of(model)} takes tokens: give tokens or text:PATH (--data)")
    if vocabulary is None and shape is not None and len(shape) > 1 and dataset.items == "tokens":
        raise UsageError(f"{data} holds tokens, and {name_of(model)} takes inputs of shape {shape}")
    return dataset


def _name_for(data: str, model: nn.Module | None) -> str:
    """The name of the data set that is read: in place of the default, that of networks of tokens, or of the model."""
    if data != DEFAULT:
        return data
    if vocabulary_of(model) is not None:
        return DEFAULT_TOKENS
    return str(getattr(model, "_gradlab_data", DEFAULT))
