"""What a refusal may take: one sentence, five seconds, twice the file's size and 200 MB."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.networks import build

SECONDS = 5.0
"""Of this process's own: other work on the machine does not count."""
BYTES = 200_000_000
LONGEST = 500
_CLEAR = Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """The most memory that was resident since the last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def reset_peak() -> bool:
    """Begin to measure anew; False where the system does not tell."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def said(action: Callable[[], object]) -> str | None:
    """Do something with untrusted input: None when it was taken, else the sentence; anything else is a fault."""
    try:
        action()
    except GradlabError as error:
        text = str(error)
        assert text, "an error without a word"
        assert len(text) <= LONGEST, f"{len(text)} characters: {text[:200]}"
        assert text.isprintable(), ascii(text)
        assert "torch.load" not in text, text
        assert "weights_only" not in text, text
        return text
    return None


@cache
def _load() -> None:
    """Load the libraries that are loaded when they are first needed."""
    import torchvision.transforms.v2  # noqa: F401
    from PIL import Image

    Image.init()
    build("resnet8@init")


def refusal(action: Callable[[], object], size: int) -> str:
    """The sentence of a refusal, held against time and memory.

    Args:
        action: What is to be refused.
        size: Bytes of the file.
    """
    _load()
    measured = reset_peak()
    before = peak_bytes() if measured else 0
    start = time.process_time()
    text = said(action)
    seconds = time.process_time() - start
    assert text is not None, "it was taken"
    assert seconds < SECONDS, f"{seconds:.1f} s: {text}"
    if measured:
        taken = peak_bytes() - before
        assert taken <= 2 * size + BYTES, f"{taken / 1e6:,.0f} MB: {text}"
    return text
