"""A small result of every kind of measurement, for tests that hold for all of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import gradlab as gl
from gradlab.experiments.architectures import architectures


def make_run(folder: Path) -> Path:
    """Train a small network for two steps in a folder, with a record of its layers; return the folder of runs."""
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(8)
    np.savez(folder / "toy.npz", x_train=images, x_test=images, y_train=labels, y_test=labels)
    recipe = gl.Recipe(iterations=2, batch_size=4, normalization="cifar10")
    what = {"record": ("responses", "gradients"), "every": 1, "device": "cpu"}
    gl.train("resnet8", str(folder / "toy.npz"), recipe=recipe, out=folder / "runs" / "resnet8", **what)
    return folder / "runs"


TOY_NETS = {"depths": (1, 4), "seeds": 2, "width": 10, "points": 16, "lags": 3}
IMAGES = {"images": 4, "batch_size": 2, "device": "cpu"}
EVERY_KIND: dict[str, Callable[[Path], gl.Result]] = {
    "responses": lambda runs: gl.responses("resnet8-preact@init", images=4, device="cpu"),
    "shatter": lambda runs: gl.shatter(**TOY_NETS),
    "activations": lambda runs: gl.activations(3, ("ff-norm=none", "resnet"), seeds=2, width=10, points=16),
    "shattering": lambda runs: gl.shattering(torch.sin, torch.linspace(-2, 2, 16), lags=3),
    "input-gradients": lambda runs: gl.input_gradients("resnet8@init", points=4, lags=1, seeds=1, **IMAGES),
    "gradients": lambda runs: gl.gradients("resnet8@init", seeds=1, per_example=True, **IMAGES),
    "signal": lambda runs: gl.signal("resnet8@init", seeds=2, **IMAGES),
    "attention": lambda runs: gl.attention("vit2-width=64@init", rows=None, **IMAGES),
    "jacobian": lambda runs: gl.jacobian("resnet8@init", images=1, seeds=1, device="cpu"),
    "coordinates": lambda runs: gl.coordinate_check(
        "plain{depth}-width=4", depths=(8, 14, 20), images=2, seeds=2, steps=1
    ),
    "training": lambda runs: gl.TrainingResult.load(runs / "resnet8"),
    "architectures": lambda runs: architectures("imagenet/resnet18"),
    "dynamics": lambda runs: gl.dynamics(runs / "resnet8"),
    "compare-runs": lambda runs: gl.compare_runs(runs / "resnet8", runs / "resnet8"),
    "compare": lambda runs: gl.compare("depth", depths=(8, 14), seeds=2, images=2, device="cpu"),
    "lesion": lambda runs: gl.lesion(
        "resnet8@init", images=4, several=(2,), swaps=(2,), samples=2, paths=2, device="cpu"
    ),
    "degradation": lambda runs: gl.degradation((8,), ("resnet",), runs=runs, train_missing=False),
}
