"""Notebooks as pages of the documentation: their text, their code and the outputs that they were committed with."""

import base64
import json
import re
from pathlib import Path
from typing import Any

STYLE = re.compile(r"<style scoped>.*?</style>|\n\s*(?=\n)", re.DOTALL)
"""What a page has no use for: the style that pandas sends with a table, and empty lines, at which HTML would end."""


def page_of(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures that this names, to lie beside it."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode(data["image/png"])
                parts.append(f"![What the code above draws]({picture})")
            else:
                parts.append(_words(output, data))
    install, title, *rest = parts
    return "\n\n".join([title, install, *rest]), pictures


def _words(output: dict[str, Any], data: dict[str, Any]) -> str:
    """An output as the notebook shows it, as a table or as text."""
    if "text/html" in data:
        return f'<div class="output">\n{STYLE.sub("", "".join(data["text/html"]))}\n</div>'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"``` {{ .text .output }}\n{text.rstrip()}\n```"
