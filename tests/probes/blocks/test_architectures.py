"""`gl.BlockSignal` on the architectures of several libraries equals plain hooks that are written for each of them."""

import copy
import math

import pytest
import torch
from probes.blocks.networks import NETWORKS
from probes.blocks.oracle import brute_force
from torch import Tensor

import gradlab as gl


def objective(output: Tensor) -> Tensor:
    """Differs from place to place, and is not the same for each sign."""
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    return (output.tanh() * weights).mean()


WHOLE = {"torchvision-wide": "torchvision-resnet50", "resnet110-preact": "resnet20-preact"}
"""Networks in the thorough tests, each with one of its kind that is small."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.thorough if n in WHOLE else ()) for n in NETWORKS])
def test_equals_plain_hooks(name: str) -> None:
    network = NETWORKS[name]()
    measured = copy.deepcopy(network.model)
    expected = brute_force(network, objective)
    with gl.BlockSignal(measured) as probe:
        objective(type(network)(measured, network.inputs, network.rows).run()).backward()
    frame = probe.result().to_frame()
    assert list(zip(frame["block"], frame["branch"], strict=True)) == [(r.block, r.branch) for r in network.rows]
    for (_, row), values in zip(frame.iterrows(), expected, strict=True):
        for column, value in values.items():
            scale = {"cosine": 1.0, "stream_mean_square": row["stream_std"] ** 2}.get(column, 0.0)
            if math.isnan(value):
                assert math.isnan(row[column])
            else:
                assert row[column] == pytest.approx(value, rel=1e-6, abs=1e-7 * scale), (row["block"], column)
