"""What the name of a transformer says, and the network of that name."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from gradlab.models.description import NetworkDescription
from gradlab.models.grammar import Value, written
from gradlab.models.initialization import materialize
from gradlab.models.transformer.gpt import GPT
from gradlab.models.transformer.options import OF_GPT, OF_VIT
from gradlab.models.transformer.style import Style
from gradlab.models.transformer.vit import ViT
from gradlab.models.transformer.weights import Init, initialize

Form = Literal["bytes", "webtext", "cifar", "imagenet"]
"""For which data: sequences of 128 bytes, GPT-2's tokens, images of 32 or of 224 pixels."""

SIZES: dict[Form, tuple[int, int]] = {"cifar": (32, 10), "imagenet": (224, 1000)}
"""Rows of an image, and classes."""


@dataclass(frozen=True)
class TransformerArchitecture:
    """A transformer by name.

    Attributes:
        family: `gpt` or `vit`.
        form: For which data.
        style: What the blocks are like; `style.depth` is L.
        width: d.
        heads: Of each attention.
        init: How weights are drawn.
        vocabulary: Tokens that there are, of a gpt.
        context: Tokens of a sequence, of a gpt.
        untied: Whether the head has weights of its own, of a gpt.
        patch: Pixels of a patch's side, of a vit.
        values: What its name says, by option.
    """

    family: Literal["gpt", "vit"]
    form: Form
    style: Style
    width: int
    heads: int
    init: Init
    vocabulary: int = 0
    context: int = 0
    untied: bool = False
    patch: int = 0
    values: tuple[tuple[str, Value], ...] = ()

    imagenet = False
    """Whether a checkpoint can be in torchvision's layout of the same network, with other strides."""

    @property
    def depth(self) -> int:
        """L."""
        return self.style.depth

    @property
    def name(self) -> str:
        """The canonical name, without what is the default."""
        prefix = f"{self.form}/" if self.form in ("webtext", "imagenet") else ""
        options = OF_GPT if self.family == "gpt" else OF_VIT
        return f"{prefix}{self.family}{self.depth}{written(dict(self.values), options)}"

    @property
    def former_name(self) -> str:
        """The name in older records."""
        return self.name

    @property
    def shown(self) -> TransformerArchitecture:
        """The architecture as far as a state dict shows it."""
        return self

    @property
    def initialization(self) -> str:
        """How `create` draws the weights, in words."""
        rule = "GPT-2's initialization" if self.init == "gpt2" else "variance 1/fan-in"
        return rule if self.style.scale in ("one", "sqrt", "completep") else f"{rule}, {self.style.scale}"

    @property
    def tokens(self) -> int:
        """Tokens of a sequence."""
        return self.context or (SIZES[self.form][0] // self.patch) ** 2 + 1

    @property
    def description(self) -> NetworkDescription:
        """The facts of the network."""
        style = self.style
        facts: dict[str, Value] = {"heads": self.heads, "scale": style.scale, "activation": style.activation}
        facts |= {"init": self.init, "tokens": self.tokens}
        facts |= {"vocabulary": self.vocabulary} if self.vocabulary else {"patch": self.patch}
        return NetworkDescription(
            name=self.name,
            family=self.family,
            depth=self.depth,
            kind="residual" if style.shortcut else "plain",
            unit=style.norm,
            block="transformer",
            normalization="none" if style.norm == "none" else "rms" if style.rms else "layer",
            width=self.width,
            form=self.form,
            options=facts,
        )

    def skeleton(self, classes: int | None = None) -> GPT | ViT:
        """The network with memory but without values; of a gpt, `classes` are its tokens."""
        model = materialize(partial(self._make, classes))
        assert isinstance(model, GPT | ViT)
        if isinstance(model, GPT):
            model.tie()
        return model

    def create(self, classes: int | None = None, seed: int = 0) -> GPT | ViT:
        """Build the network at its initialization."""
        model = self.skeleton(classes)
        initialize(model, self.style, self.init, seed)
        return model

    def regular(self) -> tuple[TransformerArchitecture, TransformerArchitecture, int]:
        """The networks of one and two blocks, and how many more than one this one has."""
        one, two = (replace(self, style=replace(self.style, depth=depth)) for depth in (1, 2))
        return one, two, self.depth - 1

    def _make(self, classes: int | None) -> GPT | ViT:
        if self.family == "vit":
            size, own = SIZES[self.form]
            return ViT(self.style, self.width, self.heads, size=size, patch=self.patch, classes=classes or own)
        return GPT(
            self.style,
            self.width,
            self.heads,
            vocabulary=classes or self.vocabulary,
            context=self.context,
            tied=not self.untied,
            embedding_scale=1.0 if self.init == "gpt2" else math.sqrt(self.width),
        )
