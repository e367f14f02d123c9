"""What is drawn at random: damaged files, contents of other shapes, options of any value."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fuzz.checkpoint_files import whole

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["$x$", "\x1b[31m", "a\nb", "~", "é" * 200]
)
NAMES = st.sampled_from(["conv1.weight", "fc.weight", "fc.bias", "module.fc.weight", "bn1.running_mean"]) | TEXTS


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with bits flipped, bytes cut out, doubled, replaced or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from([1, 2, 4, 8, 64, 1024]))
        kind = draw(st.sampled_from(["flip", "cut", "double", "replace", "end"]))
        if kind == "flip" and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[start : start + length]
        elif kind == "double":
            data[start:start] = data[start : start + length]
        elif kind == "replace":
            data[start : start + length] = draw(st.binary(min_size=1, max_size=8))
        else:
            del data[start:]
    return bytes(data)


CHECKPOINTS = st.sampled_from([whole(), whole(old_format=True)]).flatmap(damaged)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any layout, type, shape and stride."""
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 10, 16, 64]), max_size=4))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8]))
    kind = draw(st.sampled_from(["plain", "plain", "expanded", "sparse", "meta", "not finite", "turned"]))
    if kind == "expanded":
        return torch.ones([1] * len(shape), dtype=dtype).expand(shape)
    value = torch.ones(shape, dtype=dtype)
    if kind == "sparse" and shape:
        return value.to_sparse()
    if kind == "meta":
        return value.to("meta")
    if kind == "not finite" and dtype.is_floating_point:
        return value * float("nan")
    return value.t() if kind == "turned" and len(shape) == 2 else value


PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS | st.binary(max_size=20)
CONTENTS = st.recursive(
    PLAIN | tensors(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.integers(), inner, max_size=5),
    max_leaves=12,
)


OPERATIONS = (
    *(b"]", b"}", b")", b"(", b"t", b"R", b"b", b"a", b"s", b"u", b"e", b"Q", b"q\x00", b"h\x00", b"0", b"2", b"\x81"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ctorch\nTensor\n", b"ctorch\nSize\n"),
    *(b"ccollections\nOrderedDict\n", b"cbuiltins\nbytearray\n", b"c_codecs\nencode\n", b"X\x01\x00\x00\x00a"),
    *(b"K\x05", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\x7f" * 8, b"X\x07\x00\x00\x00storage", b"\x85", b"\x86"),
)
PICKLES = st.lists(st.sampled_from(OPERATIONS), max_size=25).map(lambda parts: b"\x80\x02" + b"".join(parts) + b".")


@st.composite
def safetensors_files(draw: st.DrawFn) -> bytes:
    """A safetensors file whose header says anything."""
    from safetensors.torch import save

    content = save({"fc.weight": torch.ones(10, 64), "fc.bias": torch.ones(10)}, {"gradlab": draw(TEXTS)})
    return draw(damaged(content)) if draw(st.booleans()) else content


@st.composite
def npz_files(draw: st.DrawFn) -> bytes:
    """An archive of any arrays, whole or damaged."""
    kinds = st.sampled_from(["u1", "f4", "f8", "i8", "u8", "?", "c8", "U3", ">f2"])
    shapes = st.sampled_from([(3, 8, 8, 3), (3, 3, 8, 8), (0, 8, 8, 3), (3,), (3, 1), (), (3, 8, 8), (1, 1, 1, 1)])
    values = {
        name: draw(arrays.arrays(np.dtype(draw(kinds)), draw(shapes), fill=st.nothing(), elements=None))
        if draw(st.booleans())
        else np.zeros(draw(shapes), draw(kinds))
        for name in draw(st.sets(st.sampled_from(["x_test", "y_test", "x_train", "other"]), max_size=3))
    }
    buffer = io.BytesIO()
    draw(st.sampled_from([np.savez, np.savez_compressed]))(buffer, **values)
    return draw(damaged(buffer.getvalue())) if draw(st.booleans()) else buffer.getvalue()


PICTURES = {
    "PNG": ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "TIFF": ["L", "RGB", "F", "I", "I;16"],
    "GIF": ["L", "P"],
    "BMP": ["RGB"],
    "WEBP": ["RGB"],
}


@st.composite
def image_files(draw: st.DrawFn) -> bytes:
    """A picture of any mode and size, whole or damaged."""
    from PIL import Image

    kind, modes = draw(st.sampled_from(list(PICTURES.items())))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    buffer = io.BytesIO()
    Image.new(draw(st.sampled_from(modes)), size).save(buffer, kind)
    return draw(damaged(buffer.getvalue())) if draw(st.booleans()) else buffer.getvalue()


NUMBERS = st.integers(-(10**25), 10**25) | st.sampled_from([0, 1, 2, 128, 64_000]) | st.floats() | TEXTS
RECIPES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("epochs", "iterations", "batch_size", "padding", "validation", "warm_up_depth"), NUMBERS),
        **dict.fromkeys(("learning_rate", "warm_up_rate", "momentum", "label_smoothing", "weight_decay"), st.floats()),
        "schedule": TEXTS,
        "amp": TEXTS,
    },
)
SPECS = st.text("0123456789.,/:-+e x%$~", max_size=25) | TEXTS


def training_content() -> dict[str, Any]:
    """What a training's checkpoint holds, each part of the right kind."""
    return {
        "model": {"w": torch.ones(2)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "step": 3,
        "warming_up": False,
        "window": torch.ones(3, 2),
        "random": {"cpu": torch.get_rng_state()},
        "lengths": {"metrics.csv": 10},
        "config": {"network": "resnet8", "fields": {}},
    }


TRAININGS = st.dictionaries(st.sampled_from([*training_content()]), CONTENTS, min_size=1, max_size=3).map(
    lambda changed: {**training_content(), **changed}
)


def saved(content: object, old_format: bool = False) -> bytes:
    """What `torch.save` makes of a content; nothing where it makes nothing."""
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer, _use_new_zipfile_serialization=not old_format)
    except (RuntimeError, NotImplementedError, TypeError, pickle.PicklingError, UnicodeEncodeError):
        return b""
    return buffer.getvalue()
