"""The house rules: which way imports run, what loads when, what is packaged, what the README says."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
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
    "data": {"errors", "assets", "normalization", "transfer"},
    "checkpoints": {"errors", "models", "results"},
    "hub": {"errors", "checkpoints"},
    "sources": {"errors", "models", "checkpoints", "hub", "zoo"},
    "networks": {"errors", "models", "normalization", "checkpoints", "hub", "sources"},
    "sinks": {"errors"},
    "probes": {"errors", "models", "results", "sinks", "stats", "theory"},
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


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part in ("__init__", "__main__"):
        return
    inner = {n.split(".")[1] for n in imported(path) if n.startswith("gradlab.") and n.count(".") >= 1}
    assert inner - {part} <= BELOW[part], f"{part} imports {inner - {part} - BELOW[part]}"
    assert not {n.split(".")[0] for n in imported(path)} & FOREIGN.get(part, set())
    # The models know no hooks, files or plots of ours by any road.
    assert "cli" not in {n.split(".")[0] for n in imported(path)}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "results").glob("*/*.py")), ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_a_figure_knows_no_torch_and_findings_no_matplotlib(path: Path) -> None:
    assert not {n.split(".")[0] for n in imported(path)} & FOREIGN_TO.get(path.name, set())


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


@pytest.mark.parametrize("path", sorted([*PACKAGE.rglob("*.py"), *ROOT.glob("cli/*.py")]), ids=lambda p: p.name)
def test_only_the_grammar_reads_a_family_out_of_a_name(path: Path) -> None:
    if PACKAGE / "models" in path.parents or path == PACKAGE / "networks.py":
        return
    asking = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if asks_for_a_family(node)]
    assert not asking or (path.name == "networks.py" and len(asking) == 1), f"{path.name}, lines {asking}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "theory").glob("*.py")), ids=lambda p: p.name)
def test_theory_imports_torch_and_scipy_only(path: Path) -> None:
    assert {n.split(".")[0] for n in imported(path)} <= {"gradlab", "torch", "scipy", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda p: p.name)
def test_the_command_line_only_parses_calls_and_prints(path: Path) -> None:
    assert not {n.split(".")[0] for n in imported(path)} & {"torch", "matplotlib", "pandas", "numpy"}


def test_files_are_short() -> None:
    long = {
        p.name: n
        for p in [*PACKAGE.rglob("*.py"), *ROOT.glob("cli/*.py")]
        if (n := len(p.read_text().splitlines())) > 320
    }
    assert not long


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize(
    "path",
    [*sorted((PACKAGE / "experiments").rglob("*.py")), *sorted((ROOT / "cli").glob("*.py"))],
    ids=lambda p: p.name,
)
def test_functions_are_short_and_take_few_arguments(path: Path) -> None:
    """Without their docstrings; what the front page offers says each of its arguments by name."""
    public = set(re.findall(r"import (\w+)", (PACKAGE / "__init__.pyi").read_text()))
    for function in functions(path):
        body = function.body[ast.get_docstring(function) is not None :] or function.body
        assert function.end_lineno is not None
        assert function.end_lineno - body[0].lineno < 60, function.name
        arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        assert len(arguments) <= 10 or function.name in public, function.name


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
