"""Training recipes as plain values: the paper's, a fast one, and variants with changed fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from gradlab.errors import UsageError
from gradlab.results.grouping import counted
from gradlab.training.schedule import SCHEDULES, Schedule, rate_fraction

Amp = Literal["auto", "bf16", "off"]
Decayed = Literal["all", "matrices"]
OptimizerName = Literal["sgd", "adam", "adamw"]

_WHOLE = {
    "epochs": (1, 1_000_000),
    "iterations": (1, 1_000_000_000),
    "batch_size": (2, 1_000_000),
    "padding": (0, 64),
    "validation": (0, 1_000_000_000),
    "warm_up": (0, 1_000_000_000),
    "warm_up_depth": (0, 1_000_000),
}
"""Bounds of a recipe's integers, far beyond sensible values, so that a typing error does not cause a hang."""

_CHOICES = {
    "schedule": SCHEDULES,
    "amp": get_args(Amp),
    "optimizer": get_args(OptimizerName),
    "decayed": get_args(Decayed),
}

_OF_ONE = {"momentum": ("sgd",), "nesterov": ("sgd",), "beta1": ("adam", "adamw"), "beta2": ("adam", "adamw")}
"""The options that only some optimizers have."""


@dataclass(frozen=True)
class Recipe:
    """An optimizer on randomly cropped and mirrored images, or on sequences; the defaults are He et al. 2015, §4.2.

    Attributes:
        preset: The name of the recipe.
        epochs: The number of passes over the training images; None if `iterations` is given.
        iterations: The number of optimizer steps; None if `epochs` is given.
        batch_size: The number of images per step. An incomplete last batch is dropped, with other images each epoch.
        learning_rate: The largest learning rate.
        schedule: The course of the learning rate: `steps`, `one-cycle`, `cosine` or `constant` (see `Schedule`).
        warm_up: The number of steps over which the learning rate rises linearly from 0; 0 for none.
        warm_up_rate: The learning rate of SGD, with `steps`, no `warm_up` and networks of at least `warm_up_depth`
            layers, until the training error over 100 steps is below 80 %.
        warm_up_depth: The smallest depth with this warm-up of the paper's.
        optimizer: `sgd`; `adam` (Kingma and Ba 2014, arXiv:1412.6980); or `adamw`, which multiplies weights by
            1 − learning rate · weight decay apart from the gradient (Loshchilov and Hutter 2017, arXiv:1711.05101).
        momentum: The momentum of SGD.
        nesterov: Whether SGD uses Nesterov momentum.
        beta1: Adam's β₁, of the mean of gradients.
        beta2: Adam's β₂, of the mean of squared gradients.
        weight_decay: The weight decay.
        decayed: The parameters with weight decay: `all`, or `matrices`, those of two or more dimensions, and not
            biases and gains.
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
    schedule: Schedule = "steps"
    warm_up: int = 0
    warm_up_rate: float = 0.01
    warm_up_depth: int = 110
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-4
    decayed: Decayed = "all"
    label_smoothing: float = 0.0
    padding: int = 4
    flip: bool = True
    normalization: str = "mean-image"
    validation: int = 0
    amp: Amp = "off"

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
        for name in ("momentum", "beta1", "beta2", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', ' ')} is from 0 to below 1; got {getattr(self, name)}")
        if not 0 <= self.weight_decay < float("inf"):
            raise UsageError(f"weight decay is at least 0 and finite; got {self.weight_decay}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {', '.join(choices[:-1])} or {choices[-1]}, not {getattr(self, name)!r}")
        if self.warm_up and self.schedule == "one-cycle":
            raise UsageError("one-cycle begins with a rise of its own: give a warm-up with another schedule, or none")

    def steps(self, images: int) -> int:
        """Return the number of optimizer steps of the whole training, given the number of images.

        Raises:
            UsageError: If these are no more than those of the warm-up.
        """
        steps = self.iterations or (self.epochs or 0) * self.epoch_steps(images)
        if self.warm_up >= steps:
            raise UsageError(f"a warm-up of {self.warm_up:,} steps leaves none of {steps:,}: give fewer")
        return steps

    def epoch_steps(self, images: int) -> int:
        """Return the number of optimizer steps per epoch, given the number of images.

        Raises:
            UsageError: If there are fewer images than a batch needs.
        """
        if images < self.batch_size:
            raise UsageError(f"{images:,} training images are fewer than a batch of {self.batch_size}")
        return images // self.batch_size

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of one step, apart from the paper's warm-up by training error.

        Args:
            step: The number of the step, from 0.
            steps: The number of steps of the whole training.
        """
        return self.learning_rate * rate_fraction(self.schedule, step, steps, self.warm_up)

    def waits_for_error(self, depth: int) -> bool:
        """Whether a network of this depth starts with the paper's warm-up, which ends at a training error of 80 %."""
        papers = self.optimizer == "sgd" and self.schedule == "steps" and not self.warm_up
        return papers and depth >= self.warm_up_depth

    def changed(self, **fields: Any) -> Recipe:
        """Replace the fields that are not None; `epochs` and `iterations` replace each other.

        Raises:
            UsageError: If a value is invalid, or is none of the optimizer's.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        if "epochs" in given and "iterations" in given:
            raise UsageError("give epochs or iterations, not both")
        self._check_optimizer(given)
        if "epochs" in given:
            return replace(self, iterations=None, **given)
        if "iterations" in given:
            return replace(self, epochs=None, **given)
        return replace(self, **given)

    def _check_optimizer(self, given: Mapping[str, Any]) -> None:
        """Refuse changes that do not go with the optimizer they are for."""
        optimizer = given.get("optimizer", self.optimizer)
        if wrong := next((name for name in _OF_ONE if name in given and optimizer not in _OF_ONE[name]), None):
            raise UsageError(f"{optimizer} has no {wrong}: that is an option of {' and '.join(_OF_ONE[wrong])}")
        if ("sgd" in (optimizer, self.optimizer)) and optimizer != self.optimizer and "learning_rate" not in given:
            raise UsageError(
                f"the learning rate {self.learning_rate:g} of {self.preset} is for {self.optimizer}: give one for "
                f"{optimizer} (--learning-rate), or the preset adamw"
            )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for a record."""
        return asdict(self)

    def __str__(self) -> str:
        length = f"{self.epochs} epoch" if self.epochs else f"{self.iterations:,} iteration"
        length += "" if 1 in (self.epochs, self.iterations) else "s"
        said = f"{self.preset}, {length}, batch {self.batch_size}, learning rate {self.learning_rate:g}"
        # What a recipe has always had is not named, so that records of older runs still read the same.
        said += "" if self.optimizer == "sgd" else f", {self.optimizer}"
        said += f", {self.schedule}" if self.schedule in ("cosine", "constant") else ""
        return said + (f", warm-up {counted(self.warm_up, 'step')}" if self.warm_up else "")


def with_defaults(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recorded recipe, with the defaults of those that there were not when it was recorded."""
    return {**Recipe().to_dict(), **recorded}


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
    "adamw": Recipe(
        "adamw",
        iterations=1000,
        batch_size=64,
        learning_rate=1e-3,
        schedule="cosine",
        warm_up=100,
        optimizer="adamw",
        beta2=0.95,
        weight_decay=0.1,
        decayed="matrices",
        normalization="cifar10",
    ),
}
"""The recipes by name: `he2015`, the paper's with 164 epochs; `fast`, 30 one-cycle epochs with larger batches; and
`adamw`, 1,000 steps of AdamW with warm-up and a cosine, for transformers."""


def preset(name: str) -> Recipe:
    """Return the recipe with a name.

    Raises:
        UsageError: If there is none.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}: there is {', '.join(PRESETS)}")
    return PRESETS[name]
