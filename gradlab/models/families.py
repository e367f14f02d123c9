"""The table of networks that can be built by name, with one entry per family that states its depths and options.

A variant of a family is an option in its entry; a new family is a file with its network and an entry in this table.
"""

from __future__ import annotations

from functools import partial
from typing import get_args

from gradlab.models import highway, vgg, vovnet
from gradlab.models.built import Family, family_of
from gradlab.models.densenet import PUBLISHED_FOR_IMAGENET, DenseNet
from gradlab.models.grammar import Depths, Option
from gradlab.models.mlp import architecture as mlp
from gradlab.models.residual import (
    BASIC,
    BOTTLENECK_DEPTHS,
    BOTTLENECKS,
    IMAGENET,
    IMAGENET_PLAIN,
    read_plain,
    read_residual,
)
from gradlab.models.residual_units import UNITS
from gradlab.models.shortcuts import ShortcutOption
from gradlab.models.transformer import FAMILIES as TRANSFORMERS

CIFAR_DEPTHS = (20, 32, 44, 56, 110)

OPTION = Option("option", words=get_args(ShortcutOption))
BLOCK = Option("block", words=("basic", "bottleneck"))
UNIT = Option("unit", words=tuple(UNITS)[1:])
LOOKS_LINEAR = Option("looks_linear", words=("ll",))
CRELU = Option("crelu", words=("crelu",))
WIDTH = Option("width", "width=", says="the width is a number of channels, at least 1", whole=True, low=1)
SCALE = Option(
    "shortcut_scale",
    "shortcut=",
    says="shortcut scales the shortcuts, a number above 0; without them the network is plain",
    above=True,
)
EXCLUSIVE_GATE = Option(
    "exclusive_gate",
    "exclusive-gate=",
    says="exclusive-gate is the gates' first bias, from -20 to 20",
    low=-20,
    high=20,
)
SHORTCUT_GATE = Option(
    "shortcut_gate",
    "shortcut-gate=",
    says="shortcut-gate is the gates' first bias, from -20 to 20",
    low=-20,
    high=20,
)
DROPOUT = Option(
    "shortcut_dropout",
    "shortcut-dropout=",
    says="shortcut-dropout is the share that is dropped, above 0 and at most 0.95",
    above=True,
    high=0.95,
)
BETA = Option("beta", "beta=", says="beta scales the residual branches, a number above 0", above=True)

RESIDUAL_ONLY = {
    word: "{word} is for residual CIFAR networks, such as resnet110-preact"
    for option in (BLOCK, UNIT, SCALE, EXCLUSIVE_GATE, SHORTCUT_GATE, DROPOUT)
    for word in option.names
}
PLAIN_CIFAR_ONLY = {
    "ll": "looks-linear networks are plain CIFAR nets, such as plain56-ll",
    "crelu": "networks with CReLU are plain CIFAR nets, such as plain56-crelu",
}
NO_SHORTCUTS = {
    **dict.fromkeys(OPTION.words, "a plain network has no shortcuts, so no option {word}"),
    "beta": "a plain network has no residual branches, so no beta",
    **RESIDUAL_ONLY,
}


def _named(prefix: str, depths: tuple[int, ...], suffix: str = "") -> tuple[str, ...]:
    return tuple(f"{prefix}{depth}{suffix}" for depth in depths)


FAMILIES = (
    Family(
        "plain",
        str(BASIC),
        read_plain,
        options=(LOOKS_LINEAR, CRELU, WIDTH),
        listed=_named("plain", CIFAR_DEPTHS),
        variants=_named("plain", CIFAR_DEPTHS, "-ll"),
        refusals=NO_SHORTCUTS,
    ),
    Family(
        "resnet",
        f"{BASIC}, with bottlenecks {BOTTLENECKS}, as {BOTTLENECK_DEPTHS[0]} and {BOTTLENECK_DEPTHS[1]} have them",
        read_residual,
        options=(OPTION, BLOCK, UNIT, WIDTH, SCALE, EXCLUSIVE_GATE, SHORTCUT_GATE, DROPOUT, BETA),
        listed=_named("resnet", (*CIFAR_DEPTHS, 1202)),
        variants=(
            *_named("resnet", CIFAR_DEPTHS, "-preact"),
            "resnet164",
            "resnet164-preact",
            "resnet1001-preact",
            "resnet110-bn-after-add",
            "resnet110-relu-before-add",
            "resnet110-relu-preact",
            "resnet110-C",
            "resnet110-shortcut=0.5",
            "resnet110-exclusive-gate=-6",
            "resnet110-shortcut-gate=-6",
            "resnet110-shortcut-dropout=0.5",
        ),
        refusals=PLAIN_CIFAR_ONLY,
    ),
    Family(
        "imagenet/plain",
        str(IMAGENET_PLAIN),
        partial(read_plain, imagenet=True),
        options=(WIDTH,),
        listed=_named("imagenet/plain", IMAGENET_PLAIN.choices),
        refusals={**NO_SHORTCUTS, **PLAIN_CIFAR_ONLY},
    ),
    Family(
        "imagenet/resnet",
        str(IMAGENET),
        partial(read_residual, imagenet=True),
        options=(OPTION, WIDTH, BETA),
        listed=_named("imagenet/resnet", IMAGENET.choices),
        refusals={**RESIDUAL_ONLY, **PLAIN_CIFAR_ONLY},
    ),
    family_of(
        "imagenet/vgg",
        lambda values: Depths(choices=tuple(vgg.CONVOLUTIONS)),
        vgg.VGG,
        ("imagenet/vgg16", "imagenet/vgg19"),
        width=lambda values: vgg.CHANNELS[1],
        kind="plain",
        unit="relu",
        block="convolution",
        normalization="none",
    ),
    family_of(
        "highway",
        lambda values: Depths(choices=tuple(highway.STAGES)),
        highway.HighwayNet,
        ("highway19", "highway32"),
        options=(
            Option(
                "bias", "bias=", says="bias is the gates' first bias, from -20 to 20", low=-20, high=20, default=-2.0
            ),
            WIDTH,
        ),
        width=lambda values: values.get("width", highway.WIDTH),
        kind="highway",
        unit="relu",
        block="highway",
        normalization="none",
    ),
    family_of(
        "densenet",
        lambda values: Depths(step=6 if "bottleneck" in values else 3, plus=4),
        DenseNet,
        ("densenet40-k12", "densenet100-bc-k12"),
        options=(
            Option("bottleneck", words=("bc",)),
            Option("growth", "k", says="k is the growth rate, a whole number, at least 1", whole=True, low=1),
        ),
        defaults={"growth": 12},
        unclear=PUBLISHED_FOR_IMAGENET,
        width=lambda values: 2 * values["growth"] if "bottleneck" in values else 16,
        rule="3n + 4, with bc 6n + 4",
        kind="dense",
        unit="preact",
        block="dense",
        normalization="batch",
    ),
    *(
        family_of(
            f"{form}vovnet",
            lambda values: Depths(choices=tuple(vovnet.MODULES)),
            net,
            _named(f"{form}vovnet", (27,), "-slim") + _named(f"{form}vovnet", (39, 57)),
            options=(
                Option("slim", words=("slim",)),
                Option("width", "width=", says="the width is a number of channels, at least 4", whole=True, low=4),
            ),
            width=lambda values: values.get("width", vovnet.default_width("slim" in values)),
            kind="osa",
            unit="original",
            block="osa",
            normalization="batch",
        )
        for form, net in (("imagenet/", vovnet.VoVNet), ("", partial(vovnet.VoVNet, classes=10, imagenet=False)))
    ),
    Family(
        "mlp",
        str(mlp.DEPTHS),
        mlp.read_mlp,
        options=mlp.OPTIONS,
        listed=("mlp50", "mlp50-ll"),
        refusals={"beta": "only a residual net has a beta"},
        ordered=False,
    ),
    Family(
        "resmlp",
        str(mlp.DEPTHS),
        partial(mlp.read_mlp, residual=True),
        options=mlp.RESIDUAL_OPTIONS,
        listed=("resmlp50", "resmlp50-beta=0.1"),
        refusals={"ll": "a looks-linear net has no shortcuts, such as mlp50-ll"},
        ordered=False,
    ),
    *TRANSFORMERS,
)
"""The families of networks that can be built by name."""
