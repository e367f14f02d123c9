"""What processes of a distributed run on a GPU find, against plain hooks in one process on all examples.

The arguments of the command are the device, the backend, a folder, `ddp`, `fsdp` or `compiled`, the number of the
process, and how many there are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import gradlab as gl


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.head(x)


def wrapped(model: nn.Module, how: str, device: str) -> nn.Module:
    if how == "fsdp":
        for layer in model.layers:
            fully_shard(layer)
        return fully_shard(model)
    around = DistributedDataParallel(model, device_ids=[0] if device == "cuda" else None)
    return torch.compile(around) if how == "compiled" else around


def twin_step(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
    """The std of responses and the norms of gradients in one step, by plain hooks."""
    stds, gradients = dict[str, float](), dict[str, float]()
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):

            def hook(_: Any, args: Any, output: Tensor, name: str = name) -> None:
                stds[name] = output.double().std(correction=0).item()
                output.register_hook(lambda g: gradients.__setitem__(name, g.double().norm().item()))

            handles.append(module.register_forward_hook(hook))
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    for handle in handles:
        handle.remove()
    weights = {
        n.removesuffix(".weight"): p.grad.double().norm().item() for n, p in model.named_parameters() if p.ndim > 1
    }
    optimizer.step()
    return {"std": stds, "response_grad_norm": gradients, "grad_norm": weights}


def measured_steps(device: str, how: str, rank: int, world: int, steps: int = 4) -> list[dict[str, dict[str, float]]]:
    """The same by probes, in as many steps; the std of step `i` is of the passes up to it."""
    torch.manual_seed(0)
    model = wrapped(Net().to(device), how, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights, gradients = gl.ParameterGradients(model), gl.ResponseGradients(model)
    watch = gl.watch(model, optimizer, every=1)
    found = []
    with weights, gradients, watch:
        for x, y in data(device, steps):
            with gl.ResponseStd(model) as responses:
                optimizer.zero_grad()
                F.cross_entropy(model(x[rank::world]), y[rank::world]).backward()
            weights.step()
            gradients.step()
            optimizer.step()
            found.append({"std": column(responses, "std")})
    for step, values in enumerate(found):
        values["grad_norm"] = column(weights, "grad_norm", step)
        values["response_grad_norm"] = column(gradients, "response_grad_norm", step)
        frame = watch.result().frame
        rows = frame[(frame["step"] == step) & (frame["statistic"] == "grad_norm") & (frame["layer"] != "total")]
        values["watched"] = dict(zip(rows["layer"], rows["value"], strict=True))
    return found


def column(probe: Any, name: str, step: int | None = None) -> dict[str, float]:
    frame = probe.result().frame
    if "block" in frame and frame["block"].dtype == bool:
        frame = frame[~frame["block"]]
    if step is not None:
        frame = frame[frame["step"] == step]
    return dict(zip(frame["layer"], frame[name].astype(float), strict=True))


def data(device: str, steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(8, 16, generator=generator), torch.randint(4, (8,), generator=generator)) for _ in range(steps)
    ]
    return [(x.to(device), y.to(device)) for x, y in batches]


def main() -> None:
    device, backend, folder, how = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    rank, world = int(sys.argv[5]), int(sys.argv[6])
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group(backend, init_method=store, rank=rank, world_size=world)
    found = measured_steps(device, how, rank, world)
    torch.manual_seed(0)
    model = Net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = [twin_step(model, optimizer, x, y) for x, y in data(device, len(found))]
    torch.distributed.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps([found, expected]))


if __name__ == "__main__":
    main()
