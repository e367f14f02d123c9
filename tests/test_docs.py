"""The documentation: its commands run, at toy size, its Python runs, and every page is in the menu."""

import ast
import functools
import importlib
import inspect
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

import gradlab as gl
from gradlab import gallery
from gradlab.cli import app
from gradlab.experiments.catalog import list_networks

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
EVERY = [ROOT / "README.md", *PAGES]
ZOO = json.loads((ROOT / "gradlab" / "zoo" / "zoo.json").read_text())

TOY_IMAGES = ["--images", "4", "--data", "cifar10-sample"]
TOY_TRAINING = [
    "--data",
    "toy.npz",
    "--iterations",
    "1",
    "--batch-size",
    "2",
    "--normalize",
    "cifar10",
    "--warmup",
    "0",
]
TOY = {
    "responses": [*TOY_IMAGES, "--format", "png"],
    "shatter --model": [*TOY_IMAGES, "--batch-size", "2", "--points", "4", "--lags", "1", "--seeds", "1"],
    "shatter": ["--seeds", "2", "--width", "10", "--points", "32", "--lags", "4", "--format", "png"],
    "gradients": [*TOY_IMAGES, "--batch-size", "4", "--seeds", "1", "--format", "png"],
    "attention": ["--images", "2", "--rows", "4", "--format", "png"],
    "jacobian": ["--images", "1", "--seeds", "1", "--probes", "1", "--steps", "4", "--format", "png"],
    "signal": [*TOY_IMAGES, "--images", "2", "--batch-size", "2", "--format", "png"],
    "train": TOY_TRAINING,
    "degradation": [*TOY_TRAINING, "--format", "png"],
    "dynamics": ["--format", "png"],
    "report": [],
    "models": [],
    "zoo": [],
    "figures": ["--format", "svg"],
}
"""What makes a command small; given after its own options, the later one counts."""

READ = {
    "dynamics": ["train", "--model", "plain8", "--record", "responses,gradients", *TOY_TRAINING],
    "report": ["responses", "--model", "plain8@init", *TOY["responses"]],
}
"""What makes a folder that a command reads."""

WEIGHTS = re.compile(r"@[^,\s]+")
LENGTH = re.compile(r"--(epochs|iterations) \S+|--verify|(?<=--depths 20)[,\d]+")
"""What is taken out of a command: long trainings, and nets deeper than one of 20 layers."""

DEEP = re.compile(r"\b(plain|resnet)(20|32|44|56|110)(?!\d|-bottleneck)")
SHALLOW = {"20": "8", "32": "14", "44": "20", "56": "14", "110": "20"}
"""What the depth of a net of He et al. for CIFAR is at toy size, where its weights are not the bundled ones."""

SEQUENCES = re.compile(r"\bgpt\d+-width=\d+"), "gpt2-width=16-context=8"
"""What begins the name of a net of sequences, and what it is at toy size."""

DEPTHS = re.compile(r"(?<=^gradlab shatter --depths )[\d,]+")
"""The depths of shattered perceptrons; at toy size there are as many, from 4 on."""


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


SIZES = {"--batch-size", "--depths", "--images", "--iterations", "--model", "--seeds", "--warmup", "--weights"}
"""Options that say which networks, how many and how large, and not what is done."""


def deed(command: str) -> tuple[str, ...]:
    """What a command does, whichever its networks are: its words without the `SIZES`."""
    words = shlex.split(command)[1:]
    return tuple(w for before, w in zip(["", *words], words, strict=False) if not SIZES & {before, w})


def commands() -> list[str]:
    """Every gradlab command in a block of the pages, once."""
    lines = [line for path in EVERY for block in blocks(path, "bash") for line in block.splitlines()]
    parts = [part.partition("#")[0].strip() for line in lines for part in line.split("&&")]
    return list(dict.fromkeys(part for part in parts if part.startswith("gradlab ")))


FIRST = {deed(command): command for command in reversed(commands())}
ALIKE = [command for command in commands() if FIRST[deed(command)] != command]
"""Commands that do to other networks what an earlier one does; they run in the thorough tests."""


def parsed(words: list[str]) -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    group.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("command", ALIKE)
def test_commands_like_earlier_ones_are_parsed_and_name_networks(command: str) -> None:
    words = shlex.split(command)[1:]
    parsed(words)
    for spec in words[words.index("--model") + 1].split(","):
        assert len(list_networks(spec.partition("@")[0])[0]) == 1, spec


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What makes the folder that a command reads; once, whichever commands read it."""

    @functools.cache
    def make(command: str) -> Path:
        folder = tmp_path_factory.mktemp(command)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            save_images()
            CliRunner().invoke(app, [*READ[command], "--out", "made"], catch_exceptions=False)
        return folder / "made"

    return make


def save_images() -> None:
    images, labels = np.zeros((8, 32, 32, 3), np.uint8), np.arange(8)
    np.savez("toy.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=pytest.mark.thorough if c in ALIKE else (), id=c) for c in commands()]
)
def test_commands_run(
    command: str, tmp_path: Path, made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At toy size, and with initial weights in place of downloads and files; what has no toy size is parsed."""
    monkeypatch.chdir(tmp_path)
    save_images()
    # The gallery is measured at toy size, too, and by its first recipe where all are asked for.
    monkeypatch.setattr(gallery, "FIGURES", gallery.FIGURES[:1])
    full = gallery.render
    monkeypatch.setattr(gallery, "render", lambda recipe, out, **options: full(recipe, out, **options, toy=True))
    weighted = "@" in command or "--weights" in command
    shallow = DEEP.sub(lambda net: net[1] + SHALLOW[net[2]], command) if weighted else command
    shallow = SEQUENCES[0].sub(SEQUENCES[1], shallow)
    shallow = DEPTHS.sub(lambda depths: ",".join(str(4 * n) for n, _ in enumerate(depths[0].split(","), 1)), shallow)
    shallow = shallow.replace("-width=1000@", "-width=50@")
    words = shlex.split(LENGTH.sub("", WEIGHTS.sub("@init", shallow)))[1:]
    if words[0] not in TOY:
        parsed(words)
        return
    if words[0] in READ:
        for folder in itertools.takewhile(lambda word: not word.startswith("-"), words[1:]):
            shutil.copytree(made(words[0]), folder)
    key = f"{words[0]} --model" if f"{words[0]} --model" in TOY and "--model" in words else words[0]
    # Noise and tokens have the shape that the network takes, images have not.
    own = [word for word in words if word == "noise" or word.startswith("tokens")]
    words += TOY[key] + (["--data", own[0]] if own else [])
    result = CliRunner().invoke(app, ["models", "resnet20"] if words == ["models"] else words, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=path.stem) for path in PAGES for block in blocks(path, "python")]
)
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    exec(compile(block, "docs", "exec"), {})


NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")
PRINTED = re.findall(r"^```python\n([^`]+)^```\n\n((?:>.*\n)+)", (ROOT / "docs" / "watch.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("block", "quoted"), PRINTED)
def test_what_a_watch_is_quoted_to_say_is_what_it_prints(
    block: str, quoted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word by word; other processors round numbers otherwise."""
    exec(compile(block, "docs", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    for sentence in (line.removeprefix("> ").removesuffix("…") for line in quoted.splitlines() if line != ">"):
        like = next(line for line in lines if NUMBER.sub("#", line).startswith(NUMBER.sub("#", sentence)))
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (sentence, like)]
        assert numbers[0] == pytest.approx(numbers[1][: len(numbers[0])], rel=0.02)


def test_every_page_is_in_the_menu_and_every_command_has_its_help() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert all(f": {path.name}\n" in menu for path in PAGES)
    asked = set(re.findall(r"<!-- help: ([a-z]+) -->", (ROOT / "docs" / "commands.md").read_text()))
    assert asked == set(get_command(app).commands)


CALL = re.compile(r"`gl\.([\w.]+)\(([^`]+)\)`")
ARGUMENT = re.compile(r"(\w+)(?:=([^,()]+|\([^)]*\)))?(?:, |$)")


@pytest.mark.parametrize(
    "call", [pytest.param(call, id=call[0]) for call in CALL.findall((ROOT / "docs" / "summary.md").read_text())]
)
def test_calls_of_the_summary_have_these_arguments_and_defaults(call: tuple[str, str]) -> None:
    name, arguments = call
    called = gl
    for part in name.split("."):
        called = getattr(called, part)
    parameters = inspect.signature(called).parameters
    for argument, default in ARGUMENT.findall(arguments.replace("…", "").replace("*, ", "")):
        assert argument in parameters, argument
        try:
            value = ast.literal_eval(default)
        except (SyntaxError, ValueError):
            continue
        assert parameters[argument].default == value, argument


def test_the_reference_names_what_can_be_imported() -> None:
    for name in re.findall(r"^::: (.+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert name.count(" ") == 0
        assert hasattr(importlib.import_module(module), attribute) or importlib.import_module(name)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1200


def table(path: Path, first: str) -> list[list[str]]:
    """The table of a page whose head begins with a cell, a list of cells a row."""
    lines = itertools.dropwhile(lambda line: not line.startswith(f"| {first} |"), path.read_text().splitlines())
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not row.startswith("|---")]


def test_the_errors_of_the_bundled_weights_are_those_of_the_zoo() -> None:
    """Of the networks that a table names; of all others `gradlab zoo` tells."""
    down = table(ROOT / "docs" / "training.md", "network | recipe")[1:]
    across = [[*column] for column in zip(*table(ROOT / "README.md", "network | plain20"), strict=True)][1:]
    for network, epochs, *errors in [*([row[0], *row[2:]] for row in down), *across]:
        entry = ZOO[network]
        expected = [100 * entry["errors"][data] for data in ("cifar10", "cifar10-train")]
        assert float(epochs) == entry["epochs"], network
        assert [float(error) for error in errors] == pytest.approx(expected, abs=0.006), network
    assert [row[1] for row in down] == [f"`{ZOO[row[0]]['preset']}`" for row in down]
    assert len(across) == len(down) > 5


@pytest.mark.parametrize("path", [*EVERY, ROOT / "llms.txt"], ids=lambda path: path.name)
def test_links_between_files_lead_somewhere(path: Path) -> None:
    generated = {"gallery.md"}
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert link in generated or (path.parent / link).exists(), link
