"""The house rules: which way imports run, what loads when, what is packaged, what the README says."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest

from gradlab.models.families import FAMILIES as FAMILY_TABLE

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gradlab"
MEASUREMENTS = sorted((PACKAGE / "results").glob("*/*.py"))
# What `gradlab shatter`, `gradlab train` and `gradlab models` measure stands under other names there.
WITHOUT_EXPERIMENT = {"training"}
WITHOUT_COMMAND = {"architectures", "compare_runs", "input_gradients", "training"}

# What each part may import of gradlab: only what lies below it.
BELOW = {
    "errors": set(),
    "transfer": set(),
    "compiled": set(),
    "assets": set(),
    "zoo": {"models"},
    "theory": set(),
    "stats": {"errors", "compiled", "theory", "transfer"},
    "plots": {"errors"},
    "models": {"errors", "compiled", "transfer"},
    "results": {"errors", "models", "stats", "plots", "theory"},
    "normalization": {"errors", "assets", "transfer"},
    "facts": {"models", "normalization"},
    "data": {"errors", "assets", "facts", "normalization", "transfer"},
    "checkpoints": {"errors", "facts", "models", "results"},
    "hub": {"errors", "checkpoints"},
    "sources": {"errors", "models", "checkpoints", "hub", "zoo"},
    "networks": {"errors", "facts", "models", "normalization", "checkpoints", "hub", "sources"},
    "sinks": {"errors"},
    "probes": {"errors", "facts", "models", "results", "sinks", "stats", "theory"},
    "callbacks": {"errors", "probes", "results", "sinks"},
}
BELOW["training"] = {
    *("errors", "transfer", "stats", "models", "results", "normalization", "data", "checkpoints", "probes", "sinks")
}
BELOW["experiments"] = {*BELOW}
BELOW["reporting"] = {"errors", "results"}
BELOW["gallery"] = {*BELOW}
HEAVY = {"torch", "matplotlib", "seaborn", "pandas", "numpy", "scipy"}
# Libraries that a part must not know.
FOREIGN = {
    "stats": {"matplotlib", "seaborn", "pandas", "torchvision"},
    "models": {"matplotlib", "seaborn", "pandas", "scipy"},
    "plots": {"torch", "torchvision"},
}
# And of a measurement's parts each.
FOREIGN_TO = {"figure.py": {"torch", "torchvision"}, "findings.py": {"matplotlib", "seaborn"}}
FAMILIES = {family.prefix for family in FAMILY_TABLE} | {"ff", "ll", "torchvision/", "timm/"}
# Methods and functions that ask what a text begins with, ends with, holds or is without some part.
ASKING = {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition", "split", "replace"}


SOURCES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = sorted((ROOT / "cli").glob("*.py"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """The syntax tree of a file."""
    return [*ast.walk(ast.parse(path.read_text()))]


@cache
def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def roots(path: Path) -> set[str]:
    """The packages of which a file imports something."""
    return {name.split(".")[0] for name in imported(path)}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("part", sorted({part_of(path) for path in SOURCES} - {"__init__", "__main__"}))
def test_imports_run_downward(part: str) -> None:
    wrong = {}
    for path in (path for path in SOURCES if part_of(path) == part):
        inner = {n.split(".")[1] for n in imported(path) if n.startswith("gradlab.") and n.count(".") >= 1}
        # Nothing here knows the commands by any road.
        above = (inner - {part} - BELOW[part]) | roots(path) & (FOREIGN.get(part, set()) | {"cli"})
        wrong |= {str(path.relative_to(PACKAGE)): above} if above else {}
    assert not wrong


@pytest.mark.parametrize("name", FOREIGN_TO)
def test_a_figure_knows_no_torch_and_findings_no_matplotlib(name: str) -> None:
    paths = [path for path in MEASUREMENTS if path.name == name]
    assert paths
    assert not {path.parent.name for path in paths if roots(path) & FOREIGN_TO[name]}


@pytest.mark.parametrize(
    "folder", sorted({p.parent for p in (PACKAGE / "results").glob("*/*.py")}), ids=lambda p: p.name
)
def test_a_measurement_has_all_its_parts(folder: Path) -> None:
    """Its result, what it says, how it is drawn, what measures it, and its command."""
    name = folder.name
    missing = {f"{part}.py" for part in ("result", "figure")} - {path.name for path in folder.glob("*.py")}
    assert not missing, f"results/{name} lacks {', '.join(sorted(missing))}"
    experiment = PACKAGE / "experiments" / name
    assert experiment.is_dir() or experiment.with_suffix(".py").exists() or name in WITHOUT_EXPERIMENT
    assert (ROOT / "cli" / f"{name}.py").exists() or name in WITHOUT_COMMAND


def asks_for_a_family(node: ast.AST) -> bool:
    """Whether an expression looks for the name of a family, or for the sign before weights, in a text."""
    texts: list[ast.expr] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        pattern = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
        texts = list(node.args[:1]) if pattern or node.func.attr in ASKING else []
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        texts = [node.left]
    constants = [inner for text in texts for inner in ast.walk(text) if isinstance(inner, ast.Constant)]
    words = {
        word
        for one in constants
        if isinstance(one.value, str)
        for word in (one.value, *re.findall(r"[a-z/]+", one.value))
    }
    return bool(words & (FAMILIES | {"@"}))


def test_only_the_grammar_reads_a_family_out_of_a_name() -> None:
    asking = {}
    for path in [*SOURCES, *COMMANDS]:
        if PACKAGE / "models" in path.parents or path == PACKAGE / "networks.py":
            continue
        lines = [getattr(node, "lineno", 0) for node in nodes(path) if asks_for_a_family(node)]
        if lines and not (path.name == "networks.py" and len(lines) == 1):
            asking[str(path.relative_to(ROOT))] = lines
    assert not asking


def test_theory_imports_torch_and_scipy_only() -> None:
    known = {"gradlab", "torch", "scipy", *sys.stdlib_module_names}
    assert not {path.name: more for path in (PACKAGE / "theory").glob("*.py") if (more := roots(path) - known)}


def test_the_command_line_only_parses_calls_and_prints() -> None:
    heavy = {"torch", "matplotlib", "pandas", "numpy"}
    assert not {path.name: more for path in COMMANDS if (more := roots(path) & heavy)}


def test_files_are_short() -> None:
    long = {p.name: n for p in [*SOURCES, *COMMANDS] if (n := len(p.read_text().splitlines())) > 320}
    assert not long


def faults_of(function: ast.FunctionDef, public: set[str]) -> list[str]:
    """What is too long of a function, without its docstring."""
    body = function.body[ast.get_docstring(function) is not None :] or function.body
    assert function.end_lineno is not None
    lines = function.end_lineno - body[0].lineno
    arguments = len(function.args.posonlyargs + function.args.args + function.args.kwonlyargs)
    return [
        *([f"{function.name} has {lines} lines"] if lines >= 60 else []),
        *([f"{function.name} takes {arguments}"] if arguments > 10 and function.name not in public else []),
    ]


def test_functions_are_short_and_take_few_arguments() -> None:
    """What the front page offers says each of its arguments by name."""
    public = set(re.findall(r"import (\w+)", (PACKAGE / "__init__.pyi").read_text()))
    paths = [*(PACKAGE / "experiments").rglob("*.py"), *COMMANDS]
    functions = [node for path in paths for node in nodes(path) if isinstance(node, ast.FunctionDef)]
    assert not [fault for function in functions for fault in faults_of(function, public)]


@pytest.mark.parametrize("code", ["import gradlab", "import gradlab.cli", "import gradlab as gl; dir(gl)"])
def test_nothing_heavy_is_loaded_before_it_is_used(code: str) -> None:
    check = f"{code}; import sys; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['gradlab', '--help']\n"
        "from gradlab.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_every_public_name_is_there() -> None:
    import gradlab as gl

    for name in gl.__all__:
        assert getattr(gl, name) is not None
        assert name in dir(gl)
    assert gl.__version__ == importlib.metadata.version("gradlab-torch")


def test_every_package_folder_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {".".join(init.parent.relative_to(ROOT).parts) for init in PACKAGE.rglob("__init__.py")} | {"gradlab.cli"}
    assert set(settings["packages"]) == folders


@pytest.mark.slow
def test_the_wheel_installs_and_runs(tmp_path: Path) -> None:
    """Built from a copy of the sources, installed apart from this checkout, run from an empty folder."""
    source = tmp_path / "source"
    source.mkdir()
    for part in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    for part in ("gradlab", "cli"):
        shutil.copytree(ROOT / part, source / part)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    about = next(name for name in names if name.endswith("/METADATA"))
    described = zipfile.ZipFile(wheel).read(about).decode()
    assert "pip install -e ." in described
    assert not re.findall(r"\]\((?!https?://)[^)]*\)", described), "a package index has no files beside the description"
    data = {f"gradlab/reporting/{name}" for name in ("page.html", "style.css", "sort.js")}
    assert {"gradlab/cli/__init__.py", "gradlab/__init__.pyi", "gradlab/assets/cifar10-sample.png"} | data <= set(names)
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    libraries = str(Path(importlib.metadata.distribution("torch").locate_file("")))
    code = (
        # -S leaves out .pth files, and so the editable install; the libraries come in as a plain folder.
        f"import sys; sys.path[:0] = [{str(site)!r}, {libraries!r}]\n"
        "import gradlab; assert gradlab.__file__.startswith(sys.path[0])\n"
        "sys.argv = ['gradlab', 'responses', '--model', 'resnet8@init', '--images', '4']\n"
        "from gradlab.cli import app; app()"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "responses" / "responses.png").exists()


README = (ROOT / "README.md").read_text()


def test_the_readme_has_the_two_commands() -> None:
    assert "pip install -e . && gradlab responses --model plain20,plain56,resnet20,resnet56,resnet110" in README
    assert "pip install -e '.[test]' && pytest" in README


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_in_the_readme_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    import matplotlib as mpl

    mpl.use("agg")
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("option", sorted(set(re.findall(r"--[a-z][a-z-]+", README)) - {"--help"}))
def test_options_in_the_readme_exist(option: str) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "cli").glob("*.py"))
    assert option in sources or option.removeprefix("--").replace("-", "_") + ":" in sources
