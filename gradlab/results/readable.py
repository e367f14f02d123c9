"""Text for streams that cannot show every character: each missing one is replaced by a similar one."""

from __future__ import annotations

import codecs
import unicodedata

READABLE = "gradlab-readable"
"""The name of the error handler, for `errors=` of a stream or of `str.encode`."""

_ALIKE = {
    "×": "x",
    "÷": "/",
    "±": "+-",
    "–": "-",
    "—": "-",
    "−": "-",
    **dict.fromkeys("─━╸╺", "-"),
    **dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True)),
    "•": "*",
    "◦": "o",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "∞": "inf",
    "√": "sqrt ",
    "∂": "d",
    "‖": "||",
    "§": "Sec. ",
    "²": "^2",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "ε": "eps",
    "μ": "mu",
    "π": "pi",
    "σ": "sigma",
    "Σ": "Sigma",
}


def readable(text: str, encoding: str) -> str:
    """The text in characters of this encoding."""
    return text.encode(encoding, READABLE).decode(encoding)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ALIKE.get(character) or _plain(character) for character in _missing(error)), error.end


def _missing(error: UnicodeEncodeError) -> str:
    return error.object[error.start : error.end]


def _plain(character: str) -> str:
    """A character without accents and other marks; a question mark if nothing is left."""
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?"


codecs.register_error(READABLE, _replaced)
