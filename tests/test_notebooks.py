"""The notebooks run, and their outputs are committed: small, without errors or paths of a machine.

One runs as it is, in a kernel, and all do so in the thorough tests; the others run on fewer images and seeds here.
"""

import json
import re
import runpy
from pathlib import Path

import nbformat
import pytest
from forked_cells import run_cells
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
FEWER = {"images=300": "images=100", "images=100": "images=50", "seeds=8": "seeds=2"}
"""What is less in the cells that run without a kernel."""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
@pytest.mark.slow
def test_runs(path: Path, tmp_path: Path) -> None:
    cells = [cell["source"] for cell in nbformat.read(path, as_version=4).cells if cell["cell_type"] == "code"]
    cells = [re.sub("|".join(FEWER), lambda size: FEWER[size[0]], cell) for cell in cells]
    assert run_cells(cells, tmp_path) == 0


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.thorough if n else (), id=path.stem) for n, path in enumerate(NOTEBOOKS)],
)
@pytest.mark.slow
def test_runs_in_a_kernel(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


@each
def test_outputs_are_committed(path: Path) -> None:
    notebook = json.loads(path.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert path.stat().st_size < 300_000
    assert not re.search(r"/(tmp|home|root|work|Users|usr)/", path.read_text())


@each
def test_begins_with_its_install_which_is_left_out_where_gradlab_is_there(path: Path) -> None:
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    assert 'if find_spec("gradlab") is None:\n    %pip install -q "{SOURCE}' in first


@each
def test_is_a_page_of_the_documentation_with_all_that_it_shows(path: Path) -> None:
    page, pictures = runpy.run_path(str(ROOT / "scripts" / "notebook_pages.py"))["page_of"](path)
    assert f"examples/{path.stem}.md\n" in (ROOT / "mkdocs.yml").read_text()
    assert page.startswith("# ")
    assert re.findall(r"!\[[^]]*\]\(([^)]+)\)", page) == list(pictures)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    cells = json.loads(path.read_text())["cells"]
    assert all("".join(cell["source"]) in page for cell in cells)
    shown = ["".join(output["text"]) for cell in cells for output in cell.get("outputs", []) if "text" in output]
    assert all(text.rstrip() in page for text in shown)
    tables = sum("text/html" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    assert page.count('<div class="output">') == tables
