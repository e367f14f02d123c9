"""Embedding of SVG figures in an HTML page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_LEFT_OUT = {"metadata", "style"}
"""Elements that are removed; a style inside an SVG would apply to the whole page, which has the same rules."""

_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(text: str, prefix: str, label: str) -> str:
    """Convert Matplotlib's SVG to an HTML element with unique ids.

    Args:
        text: The content of the SVG file.
        prefix: A prefix for every id, so that figures on one page do not share clip paths and markers.
        label: A description of the figure for screen readers.

    Returns:
        The element, which has an aspect ratio but no fixed size.
    """
    root = ElementTree.fromstring(text)
    for element in root.iter():
        for child in [child for child in element if _local(child.tag) in _LEFT_OUT]:
            element.remove(child)
        element.tag = _local(element.tag)
        element.attrib = {_local(name): _prefixed(_local(name), value, prefix) for name, value in element.items()}
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def width_mm(text: str) -> float:
    """Return the width of an SVG figure in millimetres."""
    return float(ElementTree.fromstring(text).attrib["width"].removesuffix("pt")) / 72 * 25.4


def _local(name: str) -> str:
    """Remove the namespace of a name, which HTML does not need for SVG elements nor SVG 2 for `href`."""
    return name.rpartition("}")[2]


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    return _REFERENCE.sub(rf"url(#{prefix}\1)", value)
