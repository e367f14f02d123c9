"""ResponseStd on compiled models that ranks train together stays in compiled code, and is that of all examples.

`oracles.compiled_ranks` is what every process runs. Expected values are computed by hooks in one process.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles.compiled_ranks import STEPS, Checks, trained
from oracles.data_ranks import LAYERS, even_batches, outputs
from oracles.processes import Found, column, found_by, names
from torch import Tensor


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of two processes has found."""
    return found_by("compiled_ranks", 2, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def expected() -> tuple[dict[str, Tensor], dict[str, float]]:
    """All responses by layer, and the norm of the mean of both ranks' gradients at the last step."""
    kept: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    sums: dict[str, Tensor] = {}
    for rank in (0, 1):
        model = trained()
        for x, y in even_batches(rank, STEPS):
            model.zero_grad()
            seen = outputs(model, x)
            F.cross_entropy(seen["output"], y).backward()
            for name in LAYERS:
                kept[name].append(seen[name].detach().flatten())
        for name in LAYERS:
            sums[name] = sums.get(name, torch.zeros(())) + model.get_submodule(name).weight.grad
    return {name: torch.cat(all_) for name, all_ in kept.items()}, {n: s.norm().item() / 2 for n, s in sums.items()}


@pytest.mark.slow
@pytest.mark.parametrize("check", names(Checks))
def test_ranks_have_the_moments_of_all_examples_in_compiled_code(
    found: Found, expected: tuple[dict[str, Tensor], dict[str, float]], check: str
) -> None:
    responses, norms = expected
    for its in (rank[check] for rank in found):
        for name in LAYERS:
            assert column(its, "count")[name] == responses[name].numel()
            assert column(its, "mean")[name] == pytest.approx(responses[name].mean().item(), rel=1e-12, abs=1e-15)
            assert column(its, "std")[name] == pytest.approx(responses[name].std(correction=0).item(), rel=1e-12)
            assert column(its, "grad_norm")[name] == pytest.approx(norms[name], rel=1e-12)
        assert f"{2 * (STEPS - 1)} of {2 * STEPS} passes of the compiled model" in its["notes"][-1]
        # Torch cuts a graph between the layers whose gradients it exchanges apart from one another.
        assert its["rows"][0]["sums"] == ([1] * len(LAYERS) if check == "wrapped_and_cut" else [len(LAYERS)])
