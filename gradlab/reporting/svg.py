"""A figure's SVG as part of an HTML page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_LEFT_OUT = {"metadata", "style"}
"""A style inside an SVG would hold for the whole page; the page's own says the same."""

_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(text: str, prefix: str, label: str) -> str:
    """Matplotlib's SVG as an element for HTML, its ids its own.

    Args:
        text: The SVG file.
        prefix: Put before every id, so that figures of one page do not take each other's clip paths and markers.
        label: What the figure shows, for those who do not see it.

    Returns:
        The element, without a size of its own beyond its width to height.
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
    """Width of a figure, from the points of its SVG."""
    return float(ElementTree.fromstring(text).attrib["width"].removesuffix("pt")) / 72 * 25.4


def _local(name: str) -> str:
    """A name without its namespace: HTML knows SVG's elements, and SVG 2 plain `href`."""
    return name.rpartition("}")[2]


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    return _REFERENCE.sub(rf"url(#{prefix}\1)", value)
