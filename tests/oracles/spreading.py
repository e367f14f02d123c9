"""What every process of a spread measurement does in `tests/experiments/test_spreading.py`.

Run as a script with a folder, in an environment as torchrun makes it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gradlab as gl
from gradlab.experiments.spreading import FailedElsewhere, spread
from gradlab.models import create
from gradlab.training import Arithmetic, Trainer, preset
from gradlab.training.images import load_token_split
from gradlab.training.parallel import ALONE, Parallel

NETS = {"depths": (3, 60), "families": ("ff", "resnet"), "seeds": 3, "width": 12, "points": 16, "lags": 4}
GPT = "gpt1-width=16-context=16"
LESIONS: dict[str, Any] = {"images": 8, "batch_size": 4, "several": (2,), "swaps": (1,), "samples": 2, "paths": 2}
ACTIVATIONS: dict[str, Any] = {"depth": 3, "families": ("ff", "resnet"), "seeds": 3, "width": 12, "points": 16}
OF_FEW: dict[str, Any] = {"data": "cifar10", "images": 4, "seeds": 2, "epochs": 1}
"""What the folder of data sets has by that name is small."""

COMPARED = {"question": "shortcut", "depths": (8,), **OF_FEW}
RECIPE = replace(preset("fast"), epochs=4, batch_size=24, normalization="none")


def training(folder: Path, name: str, **options: Any) -> gl.TrainingResult:
    return gl.train("plain8", str(folder / "data.npz"), recipe=RECIPE, out=folder / name, device="cpu", **options)


def trained_by_adam(dtype: torch.dtype, parallel: Parallel = ALONE) -> dict[str, torch.Tensor]:
    """The weights after six steps of AdamW on sequences of tokens."""
    recipe = preset("adamw").changed(iterations=6, batch_size=3, warm_up=0, learning_rate=0.01)
    network = create(GPT, seed=0)
    split = load_token_split("tokens:markov", network, 0)
    arithmetic = Arithmetic(torch.device("cpu"), bf16=False)
    trainer = Trainer(network.to(dtype), recipe, split, arithmetic, parallel=parallel)
    for _ in range(6):
        trainer.advance()
    return network.state_dict()


def frames(result: gl.Result) -> list[str]:
    """The tables of a result."""
    more = [getattr(result, name) for name in ("paths_frame", "runs_frame") if hasattr(result, name)]
    return [frame.to_csv(index=False) for frame in (result.frame, *more)]


def stopping(step: int, label: str, done: int, total: int) -> None:
    """Ask for a stop, as Ctrl-C does, on one rank."""
    if done == step:
        signal.raise_signal(signal.SIGINT)


def failing(rank: int, task: int) -> int:
    """Fail on one rank, when each has a task; the other one waits for what that one does not do."""
    torch.distributed.barrier()
    if rank == 1:
        raise ValueError("this task is bad")
    return task


def main(folder: Path) -> dict[str, Any]:
    rank, found = int(os.environ["RANK"]), {}
    with gl.together():
        found["tasks"] = spread(range(7), lambda task: (task, rank), cost=lambda task: task)
        shattered = gl.shatter(**NETS, keep=folder / "parts")
        found["shatter"] = shattered.frame.to_csv() + shattered.summary_frame.to_csv()
        found["parts"] = len(list((folder / "parts").glob("*.pt")))
        found["gradients"] = gl.gradients("resnet8@init", images=8, batch_size=8, seeds=3).frame.to_csv()
        one = gl.responses("resnet8@init", images=20, batch_size=5)
        found["responses"] = one.frame[["layer", "std", "count"]].to_dict("records")
        found["facts"] = [one.record["networks"][0][key] for key in ("accuracy", "loss")]
        found["whole"] = training(folder, "whole").record["notes"]
        try:
            training(folder, "stopped", progress=partial(stopping, 5) if rank == 0 else None)
        except gl.GradlabError as error:
            found["stopped"] = str(error)
        found["resumed"] = training(folder, "stopped").record["notes"]
        token = gl.train(GPT, "tokens:markov", recipe=TOKENS, out=folder / "tokens", device="cpu")
        found["tokens"] = token.frame["train_loss"].tolist()
        for dtype in (torch.float32, torch.float64):
            torch.save(trained_by_adam(dtype, Parallel(rank, 2)), folder / f"adam-{dtype}-{rank}.pt")
        recorded = training(folder, "recorded", record="responses")
        found["recorded"] = recorded.record["complete"]
        many = gl.degradation((8, 14), ("plain",), str(folder / "data.npz"), recipe=RECIPE, runs=folder / "runs")
        found["degradation"] = many.networks
        found["lesion"] = frames(gl.lesion("resnet8@init", **LESIONS))
        found["activations"] = frames(gl.activations(**ACTIVATIONS))
        found["compare"] = frames(gl.compare(**COMPARED, runs=folder / "compared"))
    try:
        with gl.together():
            spread(range(2), partial(failing, rank))
    except FailedElsewhere as error:
        found["failed"] = f"elsewhere: {error}"
    except ValueError as error:
        found["failed"] = str(error)
    return found


TOKENS = replace(preset("he2015"), iterations=4, batch_size=3)

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    place = Path(sys.argv[1])
    everything = main(place)
    (place / f"{os.environ['RANK']}.json").write_text(json.dumps(everything, default=str))
