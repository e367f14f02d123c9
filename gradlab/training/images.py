"""Labelled images on the device, for training and testing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradlab.data.datasets import load_dataset
from gradlab.data.images import ArrayImages
from gradlab.errors import UsageError
from gradlab.normalization import Normalization
from gradlab.training.augmentation import EpochPlan, crop_and_flip
from gradlab.training.tokens import LabelledTokens, load_sequences

_PARTS = {"cifar10": ("cifar10-train", "cifar10"), "cifar100": ("cifar100-train", "cifar100")}

SAMPLE = "cifar10-sample"
"""The bundled images, whose last fifth of each class is the test part."""

_FIFTH = 5


@dataclass
class LabelledImages:
    """Images and labels on one device, stored without normalization.

    Attributes:
        pixels: The images, uint8 or float32 of shape (N, C, H, W).
        labels: The labels, int64 of shape (N,).
        normalization: The normalization that is applied to every batch.
    """

    pixels: Tensor
    labels: Tensor
    normalization: Normalization

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return tuple(self.pixels.shape[1:])

    def to(self, device: torch.device) -> None:
        """Move all images to a device."""
        self.pixels, self.labels = self.pixels.to(device), self.labels.to(device)

    def training_batch(self, plan: EpochPlan, place: slice, padding: int) -> tuple[Tensor, Tensor]:
        """Return the images and labels of one step.

        Args:
            plan: The plan of the epoch, on the same device.
            place: The range of the batch within the plan.
            padding: The number of zeros on each side of an image.
        """
        chosen = plan.order[place]
        images = crop_and_flip(
            self.normalization(self.pixels[chosen]), padding, plan.offsets[place], plan.mirrored[place]
        )
        return images, self.labels[chosen]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images in order, normalized but not augmented."""
        for start in range(0, len(self), size):
            yield self.normalization(self.pixels[start : start + size]), self.labels[start : start + size]


@dataclass
class Split:
    """Training and test images, or sequences of tokens.

    Attributes:
        train: The training images.
        test: The test images, or the held-out validation images; none is used in training.
        classes: The number of classes.
        held_out: Whether `test` was held out from the training images.
    """

    train: LabelledImages | LabelledTokens
    test: LabelledImages | LabelledTokens
    classes: int
    held_out: bool

    def to(self, device: torch.device) -> Split:
        """Move all images to a device."""
        for part in (self.train, self.test):
            part.to(device)
        return self


def load_split(data: str, normalization: str, validation: int = 0) -> Split:
    """Load training and test images by name.

    Args:
        data: The data set: `cifar10`, `cifar100`, or `PATH.npz` with `x_train`, `y_train`, `x_test` and `y_test`; of
            `cifar10-sample`, the last fifth of each class is for testing.
        normalization: The normalization of all images.
        validation: The number of training images, taken from the end, that are held out and replace the test images.

    Raises:
        UsageError: If the data set is of another kind, labels do not match, or too many images are held out.
        GradlabError: If the data does not exist or cannot be read.
    """
    if data not in (*_PARTS, SAMPLE) and not data.endswith(".npz"):
        raise UsageError(
            f"cannot train on {data!r}: give cifar10, cifar100 or PATH.npz (x_train, y_train, x_test, y_test), or "
            f"{SAMPLE} for a trial"
        )
    (train, labels), test_part = _parts(data)
    if not 0 <= validation < len(train):
        raise UsageError(f"{validation:,} of {len(train):,} training images cannot be held out")
    if validation:
        test, test_labels = train[-validation:], labels[-validation:]
        train, labels = train[:-validation], labels[:-validation]
    else:
        test, test_labels = test_part()
    if test.shape[1:] != train.shape[1:]:
        raise UsageError(f"{data}: test images are {tuple(test.shape[1:])}, training images {tuple(train.shape[1:])}")
    classes = int(labels.max()) + 1
    if int(test_labels.max()) >= classes:
        raise UsageError(f"{data}: test images have class {int(test_labels.max())}, training images {classes} classes")
    how = Normalization(normalization)
    how(train[:1])
    return Split(LabelledImages(train, labels, how), LabelledImages(test, test_labels, how), classes, validation > 0)


def load_token_split(data: str, network: nn.Module, validation: int = 0) -> Split:
    """Load training and test sequences by name, of a network's length and vocabulary; see `load_sequences`."""
    vocabulary = int(network.vocabulary)  # type: ignore[arg-type]
    train, test = load_sequences(data, network.input_shape[0], vocabulary, validation)  # type: ignore[index, arg-type]
    return Split(train, test, vocabulary, validation > 0)


def _parts(data: str) -> tuple[tuple[Tensor, Tensor], Callable[[], tuple[Tensor, Tensor]]]:
    """The training images with their labels, and a function that reads those for testing."""
    if data != SAMPLE:
        train_name, test_name = _PARTS.get(data, (f"{data}:train", data))
        return _labelled(train_name), lambda: _labelled(test_name)
    pixels, labels = _labelled(SAMPLE)
    of_class = torch.nn.functional.one_hot(labels).cumsum(0).gather(1, labels[:, None])[:, 0]
    counts = labels.bincount()[labels]
    test = of_class > counts - counts // _FIFTH
    return (pixels[~test], labels[~test]), lambda: (pixels[test], labels[test])


def _labelled(name: str) -> tuple[Tensor, Tensor]:
    dataset = load_dataset(name)
    if not isinstance(dataset, ArrayImages) or dataset.labels is None:
        raise UsageError(f"{name} has no labels to train on")
    return dataset.pixels, dataset.labels
