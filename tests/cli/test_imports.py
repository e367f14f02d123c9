"""What a whole command loads, and that it leaves the garbage collector as it was."""

import json
import subprocess
import sys

CODE = """
import gc, json, sys
sys.argv = ["gradlab", "responses", "--model", "resnet8@init,plain8@init", "--images", "4", "--quiet", "--out", "."]
before = gc.get_threshold()
from gradlab.cli import app
try:
    app()
except SystemExit as done:
    code = done.code
print(json.dumps([code, sorted(sys.modules), gc.get_threshold() == before]))
"""
UNUSED = {
    # Seaborn and torchvision load scipy.stats and torch's compiler; each takes about a second.
    *("seaborn", "scipy", "torchvision", "sympy", "torch._dynamo", "torch._inductor", "torch.onnx"),
    *("torch.distributed.fsdp", "torch.distributed.tensor", "matplotlib.pyplot", "rich.markdown", "rich.progress"),
    *("pygments", "tabulate", "jinja2", "IPython", "timm", "transformers", "lightning", "pytest", "setuptools"),
}
"""Modules that a command without a progress bar, a compiled model or a table to print has no use for."""


def test_responses_loads_only_what_it_uses(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=True)
    code, loaded, restored = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert restored
    assert (tmp_path / "responses.pdf").exists()
    assert not UNUSED & set(loaded)
    files = {name.removeprefix("gradlab.cli.") for name in loaded if name.startswith("gradlab.cli.")}
    assert files == {"console", "loading", "options", "processes", "responses", "saving"}
