"""Training recipes as plain values: the paper's, a fast one, and variants with changed fields."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from gradlab.errors import UsageError

_WHOLE = {
    "epochs": (1, 1_000_000),
    "iterations": (1, 1_000_000_000),
    "batch_size": (2, 1_000_000),
    "padding": (0, 64),
    "validation": (0, 1_000_000_000),
    "warm_up_depth": (0, 1_000_000),
}
"""Bounds of a recipe's integers, far beyond sensible values, so that a typing error does not cause a hang."""


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent on randomly cropped and mirrored images; the defaults are He et al. 2015, §4.2.

    Attributes:
        preset: The name of the recipe.
        epochs: The number of passes over the training images; None if `iterations` is given.
        iterations: The number of optimizer steps; None if `epochs` is given.
        batch_size: The number of images per step. An incomplete last batch is dropped, with other images each epoch.
        learning_rate: The largest learning rate.
        schedule: `steps` divides the learning rate by 10 after half and after three quarters of the training (32k and
            48k of 64k iterations); `one-cycle` raises it linearly over the first quarter and then lowers it linearly
            to 0 (Smith and Topin 2017, arXiv:1708.07120).
        warm_up_rate: The learning rate, with `steps` and networks of at least `warm_up_depth` layers, until the
            training error over 100 steps is below 80 %.
        warm_up_depth: The smallest depth with a warm-up.
        momentum: The momentum of SGD.
        nesterov: Whether to use Nesterov momentum.
        weight_decay: The weight decay of every parameter.
        label_smoothing: The label smoothing of the cross-entropy.
        padding: The number of zeros on each side of the normalized image, from which a crop of its size is drawn.
        flip: Whether half of the images are mirrored.
        normalization: The normalization of the images (see `gl.Normalization`).
        validation: The number of training images, taken from the end, that are held out and replace the test images;
            5,000 gives the paper's 45k/5k split for validation.
        amp: The precision: `bf16` computes convolutions in bfloat16 with channels last, `off` in float32; `auto` is
            `bf16` where the device benefits from it.
    """

    preset: str = "he2015"
    epochs: int | None = None
    iterations: int | None = 64_000
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: Literal["steps", "one-cycle"] = "steps"
    warm_up_rate: float = 0.01
    warm_up_depth: int = 110
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    padding: int = 4
    flip: bool = True
    normalization: str = "mean-image"
    validation: int = 0
    amp: Literal["auto", "bf16", "off"] = "off"

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.iterations is None):
            raise UsageError(
                "the length of a training is given in epochs or in iterations: give exactly one of the two"
            )
        for name, (least, most) in _WHOLE.items():
            if (given := getattr(self, name)) is not None:
                check_whole(name.replace("_", " "), given, least, most)
        for name in ("learning_rate", "warm_up_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"a learning rate is a number above 0; got {getattr(self, name)}")
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', ' ')} is from 0 to below 1; got {getattr(self, name)}")
        if not 0 <= self.weight_decay < float("inf"):
            raise UsageError(f"weight decay is at least 0 and finite; got {self.weight_decay}")
        for name, choices in (("schedule", ("steps", "one-cycle")), ("amp", ("auto", "bf16", "off"))):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {' or '.join(choices)}, not {getattr(self, name)!r}")

    def steps(self, images: int) -> int:
        """Return the number of optimizer steps of the whole training, given the number of images."""
        return self.iterations or (self.epochs or 0) * self.epoch_steps(images)

    def epoch_steps(self, images: int) -> int:
        """Return the number of optimizer steps per epoch, given the number of images.

        Raises:
            UsageError: If there are fewer images than a batch needs.
        """
        if images < self.batch_size:
            raise UsageError(f"{images:,} training images are fewer than a batch of {self.batch_size}")
        return images // self.batch_size

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of one step, apart from the warm-up.

        Args:
            step: The number of the step, from 0.
            steps: The number of steps of the whole training.
        """
        if self.schedule == "steps":
            return self.learning_rate * 0.1 ** bisect_right((steps // 2, steps * 3 // 4), step)
        place, peak = (step + 0.5) / steps, 0.25
        return self.learning_rate * (place / peak if place < peak else (1 - place) / (1 - peak))

    def changed(self, **fields: Any) -> Recipe:
        """Replace the fields that are not None; `epochs` and `iterations` replace each other.

        Raises:
            UsageError: If a value is invalid.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        if "epochs" in given and "iterations" in given:
            raise UsageError("give epochs or iterations, not both")
        if "epochs" in given:
            return replace(self, iterations=None, **given)
        if "iterations" in given:
            return replace(self, epochs=None, **given)
        return replace(self, **given)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for a record."""
        return asdict(self)

    def __str__(self) -> str:
        length = f"{self.epochs} epochs" if self.epochs else f"{self.iterations:,} iterations"
        return f"{self.preset}, {length}, batch {self.batch_size}, learning rate {self.learning_rate:g}"


def check_whole(name: str, given: object, least: int, most: int) -> None:
    """Check that a value is an integer within bounds.

    Raises:
        UsageError: If it is not.
    """
    if not isinstance(given, int) or isinstance(given, bool) or not least <= given <= most:
        bound = f"at least {least}" if isinstance(given, int) and given < least else f"from {least} to {most:,}"
        # A number with thousands of digits cannot even be converted to text.
        long = isinstance(given, int) and abs(given) >= 10**40
        raise UsageError(
            f"{name} must be {bound}; got {'a number of more than 40 digits' if long else repr(given)[:60]}"
        )


def check_run(seed: int, checkpoint_every: int, test_every: int | None = None) -> None:
    """Check the settings of a run that are not part of its recipe.

    Raises:
        UsageError: If torch does not accept the seed, or there is less than 1 step between checkpoints or tests.
    """
    check_whole("seed", seed, 0, 2**63 - 1)
    check_whole("checkpoint every", checkpoint_every, 1, 1_000_000_000)
    if test_every is not None:
        check_whole("test every", test_every, 1, 1_000_000_000)


PRESETS = {
    "he2015": Recipe(),
    "fast": Recipe(
        "fast",
        epochs=30,
        iterations=None,
        batch_size=256,
        learning_rate=0.2,
        schedule="one-cycle",
        nesterov=True,
        weight_decay=5e-4,
        normalization="cifar10",
        amp="auto",
    ),
}
"""The recipes by name: `he2015`, the paper's with 164 epochs, and `fast`, 30 one-cycle epochs with larger batches."""


def preset(name: str) -> Recipe:
    """Return the recipe with a name.

    Raises:
        UsageError: If there is none.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}: there is {', '.join(PRESETS)}")
    return PRESETS[name]
