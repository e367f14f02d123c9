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
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([code, loaded, gc.get_threshold() == before]))
"""


def test_responses_loads_only_what_it_uses(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=True)
    code, loaded, restored = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert restored
    assert (tmp_path / "responses.pdf").exists()
    # Seaborn and torchvision load scipy.stats and torch's compiler; each takes about a second.
    assert not {"seaborn", "scipy", "torchvision", "sympy", "timm", "lightning", "pytest"} & set(loaded)
