"""What mkdocs takes from elsewhere: `--help` of every command, the gallery with its pictures, notebooks, llms.txt."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from notebook_pages import page_of
from typer.testing import CliRunner

from gradlab.cli import app

ROOT = Path(__file__).parent.parent
LLMS = ROOT / "llms.txt"
HELP = re.compile(r"^<!-- help: ([a-z]+) -->$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the gallery and the notebooks, with their pictures, and llms.txt with the addresses that pages have here."""
    text = re.sub(r"\]\(docs/(?:index|([a-z-]+))\.md\)", lambda page: f"]({page[1] or '.'}/)", LLMS.read_text())
    files.append(File.generated(config, LLMS.name, content=text.replace("figures/README.md", "gallery/")))
    for path in sorted((ROOT / "figures").glob("*.*")):
        if path.name == "README.md":
            files.append(File.generated(config, "gallery.md", content=path.read_text()))
        else:
            files.append(File.generated(config, path.name, abs_src_path=str(path)))
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        page, pictures = page_of(path)
        files.append(File.generated(config, f"examples/{path.stem}.md", content=page))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"examples/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put `gradlab COMMAND --help` where a page asks for it, and take pictures of the gallery from beside the pages."""
    return HELP.sub(lambda match: f"```text\n{help_of(match[1])}\n```", markdown).replace("](../figures/", "](")


def help_of(command: str) -> str:
    """What `gradlab COMMAND --help` prints, 100 columns wide."""
    environment = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "TERMINAL_WIDTH": "100"}
    done = CliRunner().invoke(app, [command, "--help"], env=environment, prog_name="gradlab")
    if done.exit_code:
        raise ValueError(f"gradlab {command} --help fails: {done.output}")
    return done.output.strip("\n")
