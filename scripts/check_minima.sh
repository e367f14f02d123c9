#!/usr/bin/env bash
# Installs the oldest of everything that pyproject.toml declares and runs every command with it.
#
#   scripts/check_minima.sh            the declared minima, on Python 3.11
#   PYTHON=3.14 RESOLUTION=highest scripts/check_minima.sh   the newest of everything, on another Python
#   VENV=folder scripts/check_minima.sh                      into a virtual environment that is kept
#
# It needs several gigabytes for torch's libraries. A minimum is raised here first, then in pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
source_folder=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
venv=${VENV:-$scratch/venv}
resolution=${RESOLUTION:-lowest-direct}

python3 -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install --quiet uv
uv=$scratch/tools/bin/uv
[ -x "$venv/bin/python" ] || "$uv" venv --quiet --python "${PYTHON:-3.11}" "$venv"
# From a copy: the build writes into the folder it builds.
mkdir "$scratch/source"
cp -r pyproject.toml README.md LICENSE gradlab cli "$scratch/source"
"$uv" pip install --quiet --python "$venv/bin/python" --resolution "$resolution" --reinstall-package gradlab-torch \
  "$scratch/source[lightning,tensorboard,timm,transformers]"
"$uv" pip list --python "$venv/bin/python" |
  grep -iE '^(jinja2|lazy-loader|lightning|matplotlib|numpy|pandas|pillow|platformdirs|pydantic|rich|safetensors|scipy|seaborn|tabulate|tensorboard|timm|torch|torchvision|transformers|typer|typing-extensions) '

cd "$scratch"
export OMP_NUM_THREADS=1
run() { echo "+ gradlab $*"; "$venv/bin/gradlab" "$@" >"$scratch/out.txt" 2>"$scratch/err.txt" || { cat "$scratch/err.txt"; exit 1; }; }
"$venv/bin/python" - <<'PYTHON'
import numpy as np

x = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
np.savez("d.npz", x_train=x, y_train=np.arange(64) % 10, x_test=x, y_test=np.arange(64) % 10)
PYTHON
run --version
run --help
run models 'imagenet/*'
run responses -m resnet8@init,timm/resnet10t@init --images 8 --table csv,latex,markdown --format png,pdf,svg
grep -q toprule out.txt
run gradients -m resnet8@init --images 8 --seeds 1
run shatter --depths 4 --families ff,resnet --seeds 1 --points 32
run signal -m resnet8@init --images 8 --seeds 1
run activations --depth 4 --families ff,resnet --seeds 1 --width 16 --points 32
run lesion -m resnet8@init --images 8 --samples 1 --paths 2
run coordinates 'plain{depth}-width=4' --depths 8,14,20 --seeds 2 --images 2
run train -m resnet8 --data d.npz --iterations 4 --batch-size 16 --record responses,gradients --every 2 --log tensorboard
run train -m resnet8 --data d.npz --iterations 4 --batch-size 16 --record responses,gradients --every 2 --log tensorboard
run responses -m resnet8@runs/resnet8/checkpoint.pt --images 8
run dynamics runs/resnet8
run report results
run zoo
run figures --list
"$venv/bin/python" - <<'PYTHON'
import torch

import gradlab as gl

model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
optimizer = torch.optim.AdamW(model.parameters())
with gl.watch(model, optimizer, every=1, sinks=["watch.csv", "watch.jsonl"]) as watch:
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(3, 4)).square().mean().backward()
        optimizer.step()
print(watch.result())
with torch.no_grad():
    model[2].weight[0, 0] = torch.nan
print(gl.find_nonfinite(model, torch.randn(3, 4)))
PYTHON
"$venv/bin/python" -c '
from gradlab.callbacks.lightning import *
from gradlab.callbacks.transformers import *'
echo "all of it runs"
