"""Named data sets as batches on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradlab.data.datasets import Dataset, load_dataset
from gradlab.errors import UsageError
from gradlab.normalization import Normalization

DEFAULT, DEFAULT_TOKENS = "cifar10-sample", "tokens"
"""What a network is measured on where nothing else is asked for: one of images, and one of tokens."""


@dataclass(frozen=True)
class Batches:
    """An iterable of (images, labels), or of sequences of tokens; labels are None where the data has none.

    Attributes:
        dataset: Where the images come from.
        batch_size: The number of images in a batch; the last batch may have fewer.
        count: The number of images in all.
        normalization: What is applied to every batch; None for data that needs none.
        device: Where the batches go.
        input_shape: The shape of one input, for data that has no size of its own.
        dtype: The dtype of the images and of the arithmetic of their normalization; None is float32 for images
            stored as bytes. Tokens keep their own.
    """

    dataset: Dataset
    batch_size: int
    count: int
    normalization: Normalization | None
    device: torch.device
    input_shape: tuple[int, ...]
    dtype: torch.dtype | None = None

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            images, labels = self.dataset.read(start, stop, self.input_shape)
            images = images.to(self.device, non_blocking=True)
            if self.normalization is not None:
                images = self.normalization(images, self.dtype)
            elif self.dtype is not None and images.is_floating_point():
                images = images.to(self.dtype)
            yield images, None if labels is None else labels.to(self.device, non_blocking=True)


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
            `PATH.npz` (`PATH.npz:train` for its training part), `noise`, `tokens`, `tokens:markov` or `text:PATH`. A
            network of tokens gets `tokens` in the place of the images that are the default.
        batch_size: The number of images in a batch.
        model: The network: its `normalization`, `input_shape` and `vocabulary`, which `gl.build` sets, are used, and
            its device.
        device: Where the batches go; by default the model's device, else the CPU.
        images: The number of images to take, the first ones; None takes all.
        normalize: What overrides the model's normalization (see `Normalization`).
        seed: The seed of `noise` and of tokens.

    Raises:
        UsageError: For an unknown data set or normalization, a number of images that cannot be, images for a network
            of tokens, or tokens for one of images.
        GradlabError: When the data is not there or cannot be read.
    """
    dataset = _dataset(data, seed, model)
    if images is not None and not 1 <= images <= len(dataset):
        raise UsageError(f"images must be from 1 to {len(dataset):,}, as many as {data} has; got {images}")
    if batch_size < 1:
        raise UsageError(f"batch size must be at least 1; got {batch_size}")
    if device is None:
        parameter = None if model is None else next(model.parameters(), None)
        device = "cpu" if parameter is None else parameter.device
    chosen = normalize or getattr(model, "normalization", None) or dataset.default_normalization
    if isinstance(chosen, str):
        chosen = Normalization(chosen)
    return Batches(
        dataset=dataset,
        batch_size=batch_size,
        count=images or len(dataset),
        normalization=None if dataset.normalized else chosen,
        device=torch.device(device),
        input_shape=tuple(getattr(model, "input_shape", (3, 32, 32))),
    )


def _dataset(data: str, seed: int, model: nn.Module | None) -> Dataset:
    """The data set of that name, of what the network takes."""
    shape, vocabulary = getattr(model, "input_shape", None), getattr(model, "vocabulary", None)
    if vocabulary is not None and data == DEFAULT:
        data = DEFAULT_TOKENS
    dataset = load_dataset(data, seed, shape=None if shape is None else tuple(shape), vocabulary=vocabulary)
    if vocabulary is not None and dataset.items == "images":
        raise UsageError(f"{data} holds images, and {_name(model)} takes tokens: give tokens or text:PATH (--data)")
    if vocabulary is None and shape is not None and len(shape) > 1 and dataset.items == "tokens":
        raise UsageError(f"{data} holds tokens, and {_name(model)} takes inputs of shape {tuple(shape)}")
    return dataset


def _name(model: nn.Module | None) -> str:
    return str(getattr(model, "name", type(model).__name__))
