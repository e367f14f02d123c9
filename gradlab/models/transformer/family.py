"""The families of our transformers: `gpt12`, `vit12-norm=post`, `webtext/gpt24`, `imagenet/vit12-width=384`."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from gradlab.errors import UsageError
from gradlab.models.built import Family
from gradlab.models.grammar import Depths
from gradlab.models.transformer.architecture import SIZES, Form, TransformerArchitecture
from gradlab.models.transformer.options import OF_GPT, OF_VIT
from gradlab.models.transformer.style import LEARNT, SCALES, Norm, Scale, Style

DEPTHS = Depths()

NAMED_ELSEWHERE = (2, 3, 4)
"""Depths of which a bare name, as `gpt2`, is that of a published model of other depths."""

_DEFAULTS: dict[Form, dict[str, Any]] = {
    "bytes": {"width": 256, "vocabulary": 256, "context": 128, "init": "lecun"},
    "webtext": {"width": 768, "vocabulary": 50_257, "context": 1024, "init": "gpt2"},
    "cifar": {"width": 256, "patch": 4, "init": "lecun"},
    "imagenet": {"width": 768, "patch": 16, "init": "lecun"},
}
_WIDTHS: dict[Form, dict[int, int]] = {
    # GPT-2's four sizes (Radford et al. 2019, Table 2), and ViT-B, L and H (arXiv:2010.11929, Table 1).
    "webtext": {12: 768, 24: 1024, 36: 1280, 48: 1600},
    "imagenet": {12: 768, 24: 1024, 32: 1280},
}


def read_transformer(name: str, depth: int, values: dict[str, Any], *, form: Form) -> TransformerArchitecture:
    """The transformer that a name says.

    Raises:
        UsageError: For a depth that there is not, and for options that do not go together.
    """
    family: Literal["gpt", "vit"] = "gpt" if form in ("bytes", "webtext") else "vit"
    DEPTHS.check(family, depth, name)
    named_elsewhere = family == "gpt" and depth in NAMED_ELSEWHERE
    if named_elsewhere and not values:
        width = _DEFAULTS[form]["width"]
        raise UsageError(
            f"{name} is the name of a model of OpenAI's: GPT-2 is webtext/gpt12 (or 24, 36 and 48), and a GPT of "
            f"{depth} layers is {name}-width={width}"
        )
    style = _style(name, depth, values)
    known = _DEFAULTS[form] | ({"width": _WIDTHS[form].get(depth, 768)} if form in _WIDTHS else {})
    if style.scale != "one":
        known["init"] = "lecun"
    given = {field: values.get(field, default) for field, default in known.items()}
    heads = values.get("heads") or _heads(given["width"])
    _check(name, given, heads, style, form)
    defaults = {**known, "heads": _heads(given["width"]), "norm": _norm(style.scale)}
    said = tuple(sorted((field, value) for field, value in values.items() if value != defaults.get(field)))
    if named_elsewhere and not said:
        said = (("width", given["width"]),)
    return TransformerArchitecture(
        family, form, style, heads=heads, untied=bool(values.get("untied")), values=said, **given
    )


def _style(name: str, depth: int, values: dict[str, Any]) -> Style:
    scale = values.get("scale", "one")
    norm: Norm = values.get("norm") or _norm(scale)
    shortcut = "shortcut" not in values
    if scale == "deepnorm" and norm != "post":
        raise UsageError(f"{name}: deepnorm normalizes after the addition, so the norm is post, not {norm}")
    if not shortcut and scale != "one":
        raise UsageError(f"{name}: the scale {scale} weighs a branch against its shortcut, and there is none")
    if values.get("rms") and norm == "none":
        raise UsageError(f"{name}: rms is a kind of normalization, and there is none")
    return Style(depth, norm, bool(values.get("rms")), scale, values.get("activation", "gelu"), shortcut)


def _norm(scale: Scale) -> Norm:
    """Where blocks normalize unless the name says it."""
    return "post" if scale == "deepnorm" else "none" if scale in LEARNT else "pre"


def _heads(width: int) -> int:
    """One for 64 values as in GPT-2 and ViT, or the next fewer that divide the width."""
    return next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)


def _check(name: str, given: dict[str, Any], heads: int, style: Style, form: Form) -> None:
    if given["width"] % heads:
        raise UsageError(f"{name}: {heads} heads do not divide the width of {given['width']}")
    if given["init"] == "gpt2" and style.scale != "one":
        raise UsageError(f"{name}: GPT-2's initialization scales the branches itself: no scale {style.scale}")
    if form in SIZES and SIZES[form][0] % given["patch"]:
        raise UsageError(f"{name}: patches of {given['patch']} pixels do not divide an image of {SIZES[form][0]}")


def _family(form: Form, prefix: str, listed: tuple[str, ...], variants: tuple[str, ...]) -> Family:
    return Family(
        prefix,
        str(DEPTHS),
        partial(read_transformer, form=form),
        options=OF_GPT if prefix.endswith("gpt") else OF_VIT,
        listed=listed,
        variants=variants,
        ordered=False,
    )


FAMILIES = (
    _family(
        "bytes",
        "gpt",
        ("gpt12", "gpt24"),
        (
            *(f"gpt12-{word}" for word in ("norm=post", "norm=sandwich", "norm=none", "rms", "shortcut=none")),
            *(f"gpt12-scale={scale}" for scale in SCALES[1:]),
        ),
    ),
    _family("cifar", "vit", ("vit12",), ("vit12-norm=post",)),
    _family("webtext", "webtext/gpt", tuple(f"webtext/gpt{depth}" for depth in _WIDTHS["webtext"]), ()),
    _family(
        "imagenet",
        "imagenet/vit",
        tuple(f"imagenet/vit{depth}" for depth in _WIDTHS["imagenet"] if depth < 32),
        ("imagenet/vit12-width=192", "imagenet/vit12-width=384"),
    ),
)
"""The entries of the table of names."""
