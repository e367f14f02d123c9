"""Small trainings drawn at random, sound or with a planted fault, to count what a watch says of them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from gradlab.results.dynamics.findings import seen
from gradlab.results.dynamics.seen import Seen
from gradlab.results.finding import Finding

CLASSES = 4


class Residual(nn.Module):
    """A pre-norm residual block of one hidden layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Recurrent(nn.Module):
    """A GRU over the rows of an image, and a head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 24, batch_first=True), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x[:, 0])[0][:, -1])


class Attending(nn.Module):
    """Two transformer layers over the rows of an image, and a head on their mean."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.1, batch_first=True, norm_first=True)
        self.embed, self.encoder = nn.Linear(8, 24), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x[:, 0])).mean(1))


def perceptron(
    depth: int, width: int, activation: Callable[[], nn.Module], scheme: Callable[[Tensor], Tensor] | None
) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Flatten()]
    for number in range(depth):
        linear = nn.Linear(64 if number == 0 else width, width)
        if scheme is not None:
            scheme(linear.weight)
            nn.init.zeros_(linear.bias)
        parts += [linear, activation()]
    return nn.Sequential(*parts, nn.Linear(width, CLASSES))


def convolutional(norm: bool) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before, after in ((1, 8), (8, 8), (8, 16), (16, 16)):
        parts += [nn.Conv2d(before, after, 3, padding=1, stride=1 + (before != after and before > 1), bias=not norm)]
        nn.init.kaiming_normal_(parts[-1].weight)
        parts += [nn.BatchNorm2d(after), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


def residual(blocks: int) -> nn.Sequential:
    parts = [Residual(32) for _ in range(blocks)]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), *parts, nn.LayerNorm(32), nn.Linear(32, CLASSES))


NETWORKS: dict[str, Callable[[random.Random], nn.Module]] = {
    "relu": lambda draw: perceptron(draw.randint(3, 12), 48, nn.ReLU, nn.init.kaiming_normal_),
    "tanh": lambda draw: perceptron(draw.randint(3, 8), 48, nn.Tanh, nn.init.xavier_normal_),
    "torch's own initialization": lambda draw: perceptron(draw.randint(2, 4), 48, nn.ReLU, None),
    "convolutions and batch normalization": lambda draw: convolutional(True),
    "convolutions": lambda draw: convolutional(False),
    "residual": lambda draw: residual(draw.randint(4, 10)),
    "recurrent": lambda draw: Recurrent(),
    "transformer": lambda draw: Attending(),
}

Params = list[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Params], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-4, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=5e-4),
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "warm-up": lambda t: min(1.0, (t + 0.02) / 0.2),
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
    "warm-up and cosine": lambda t: min(1.0, (t + 0.02) / 0.1) * 0.5 * (1 + math.cos(math.pi * t)),
    "a step": lambda t: 1.0 if t < 0.6 else 0.1,
}
PRECISIONS = ("float32", "float32", "bfloat16 weights", "bfloat16 autocast")


@dataclass
class Training:
    """A training as it was drawn.

    Attributes:
        network: Its name in `NETWORKS`.
        model: What is trained.
        optimizer: What trains it.
        factor: Of the learning rate, by the part of the steps that is over.
        steps: How many there are.
        every: Steps between two records.
        precision: One of `PRECISIONS`.
        seed: Of the data.
        clip: The total norm that gradients are clipped to; 0 is none.
        clear: Whether gradients are cleared between steps.
        alerts: Whether each record is held against the rules.
        disturb: Changes the inputs of a step, as a fault does.
        told: What alerts have said.
    """

    network: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    factor: Callable[[float], float]
    steps: int
    every: int
    precision: str
    seed: int
    clip: float = 0.0
    clear: bool = True
    alerts: bool = True
    disturb: Callable[[Training, int, Tensor], Tensor] = field(default=lambda training, step, x: x)
    told: list[Finding] = field(default_factory=list)

    def run(self) -> list[Seen]:
        """Train, and return what the findings say at the end."""
        generator = torch.Generator().manual_seed(self.seed)
        teacher = torch.randn(64, CLASSES, generator=generator)
        rate = self.optimizer.param_groups[0]["lr"]
        dtype = next(self.model.parameters()).dtype
        alert = self.told.append if self.alerts else None
        watch = gl.watch(self.model, self.optimizer, every=self.every, on_alert=alert)
        torch.manual_seed(self.seed)
        with watch:
            for step in range(self.steps):
                x = torch.randn(32, 1, 8, 8, generator=generator)
                y = (x.flatten(1) @ teacher).argmax(1)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate * group.get("scale", 1.0) * self.factor(step / self.steps)
                if self.clear:
                    self.optimizer.zero_grad()
                with self._casting():
                    output = self.model(self.disturb(self, step, x).to(dtype))
                F.cross_entropy(output.float(), y).backward()
                if self.clip:
                    nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
                self.optimizer.step()
        return seen(watch.result().frame)

    def _casting(self) -> AbstractContextManager[object]:
        cast = self.precision == "bfloat16 autocast"
        return torch.autocast("cpu", torch.bfloat16) if cast else nullcontext()


def sound(seed: int, networks: tuple[str, ...] = tuple(NETWORKS)) -> Training:
    """A training in which nothing is wrong."""
    draw = random.Random(f"sound {seed}")
    torch.manual_seed(draw.getrandbits(32))
    network = draw.choice(networks)
    model = NETWORKS[network](draw)
    precision = draw.choice(PRECISIONS)
    if precision == "bfloat16 weights":
        model = model.bfloat16()
    return Training(
        network=network,
        model=model,
        optimizer=draw.choice([*OPTIMIZERS.values()])(list(model.parameters())),
        factor=draw.choice([*SCHEDULES.values()]),
        steps=draw.choice([30, 40, 60]),
        every=draw.choice([2, 3, 4]),
        precision=precision,
        seed=draw.getrandbits(32),
        clip=draw.choice([0.0, 0.0, 1.0]),
    )


@dataclass(frozen=True)
class Fault:
    """Something wrong.

    Attributes:
        name: In a few words.
        kinds: Of the findings, one of which has to be there.
        plant: Puts it into a training, and tells the layer that has to be named, or None.
        networks: Those of `NETWORKS` that it is put into.
    """

    name: str
    kinds: tuple[str, ...]
    plant: Callable[[Training, random.Random], str | None]
    networks: tuple[str, ...]


RELU = ("relu", "convolutions")
DEEP = ("relu", "tanh")


def layers(training: Training, inner: bool = True) -> list[tuple[str, nn.Module]]:
    """The layers with weights; inner ones are neither the first nor the last."""
    found = [(n, m) for n, m in training.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return found[1:-1] if inner else found


@torch.no_grad()
def dead(training: Training, draw: random.Random) -> str:
    name, layer = draw.choice(layers(training))
    layer.bias.fill_(-draw.choice([30.0, 100.0, 1000.0]))
    return name


@torch.no_grad()
def zero_weights(training: Training, draw: random.Random) -> str:
    name, layer = draw.choice(layers(training))
    layer.weight.zero_()
    layer.bias.zero_()
    return name


@torch.no_grad()
def exploding(training: Training, draw: random.Random) -> str:
    training.model = perceptron(draw.randint(10, 20), 48, nn.ReLU, nn.init.kaiming_normal_)
    for _, layer in layers(training, inner=False):
        layer.weight.mul_(draw.uniform(4, 6))
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=1e-30)
    return layers(training, inner=False)[0][0]


def vanishing(training: Training, draw: random.Random) -> str:
    training.model = perceptron(draw.randint(8, 16), 48, nn.Sigmoid, nn.init.xavier_normal_)
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.05)
    return layers(training, inner=False)[0][0]


@torch.no_grad()
def overflow(training: Training, draw: random.Random) -> str:
    training.model = perceptron(6, 48, nn.ReLU, nn.init.kaiming_normal_).half()
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=1e-3)
    name, layer = draw.choice(layers(training))
    layer.weight.mul_(3e4)
    return name


@torch.no_grad()
def scaled(training: Training, draw: random.Random) -> str:
    training.model = perceptron(draw.randint(7, 12), 48, nn.ReLU, nn.init.kaiming_normal_)
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=1e-8)
    name, layer = draw.choice(layers(training))
    layer.weight.mul_(draw.choice([1e-3, 200.0, 1e3]))
    return name


def outlying_rate(training: Training, draw: random.Random) -> str:
    name, layer = draw.choice(layers(training))
    others = [p for p in training.model.parameters() if not any(p is own for own in layer.parameters())]
    groups = [{"params": others}, {"params": list(layer.parameters()), "scale": 300.0}]
    training.optimizer = torch.optim.Adam(groups, lr=1e-5)
    return name


def with_history(training: Training) -> int:
    """A step that is recorded, after records enough to hold it against."""
    training.steps, training.every = 60, 2
    return 40


def rate_spike(training: Training, draw: random.Random) -> None:
    at, factor = with_history(training), training.factor
    training.factor = lambda t: 1e3 if round(t * training.steps) == at else factor(t)


def bad_batch(training: Training, draw: random.Random) -> None:
    at, size = with_history(training), draw.choice([100.0, 1000.0])
    training.disturb = lambda _, step, x: size * x if step == at else x


def bad_value(training: Training, draw: random.Random) -> None:
    at = with_history(training)
    training.disturb = lambda _, step, x: x / x.new_tensor(0.0) if step == at else x


def no_zero_grad(training: Training, draw: random.Random) -> str:
    training.clear = False
    return "total"


def rounded_updates(training: Training, draw: random.Random) -> str:
    training.model.bfloat16()
    training.precision = "bfloat16 weights"
    rate = draw.choice([1e-7, 3e-7, 1e-6])
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=rate, weight_decay=0.0)
    return "total"


FAULTS = [
    Fault("dead ReLU", ("dead",), dead, RELU),
    Fault("weights of 0", ("dead",), zero_weights, RELU),
    Fault("exploding initialization", ("response",), exploding, DEEP),
    Fault("vanishing sigmoid", ("gradient",), vanishing, DEEP),
    Fault("float16 overflow", ("non-finite",), overflow, DEEP),
    Fault("wrong scale of one layer", ("jump",), scaled, DEEP),
    Fault("update out of line", ("update",), outlying_rate, ("relu", "tanh", "residual")),
    Fault("spike of the learning rate", ("spike", "non-finite"), rate_spike, ("relu", "convolutions")),
    Fault("bad batch", ("spike", "non-finite"), bad_batch, RELU),
    Fault("bad value", ("non-finite",), bad_value, tuple(NETWORKS)),
    Fault("no zero_grad", ("added",), no_zero_grad, tuple(NETWORKS)),
    Fault("updates that rounding cancels", ("cancelled",), rounded_updates, tuple(NETWORKS)),
]


def faulty(fault: Fault, seed: int) -> tuple[Training, str | None]:
    """A training with a fault, and the layer that has to be named, if one has."""
    draw = random.Random(f"{fault.name} {seed}")
    training = sound(draw.getrandbits(32), fault.networks)
    training.model.float()
    training.precision, training.alerts = "float32", False
    return training, fault.plant(training, draw)
