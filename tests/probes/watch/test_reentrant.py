"""A watch of models whose backward passes run others within them, as reentrant activation checkpointing does."""

from itertools import product

import pytest
import torch
from probes.watch.loop import made, values
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab as gl


class Checkpointed(nn.Module):
    """Layers of which some are run again in the backward pass; without all, another is before and behind them.

    Args:
        where: Whether there are layers `before`, `behind`, or `around` the checkpointed ones, or `nowhere`.
        reentrant: Which way of checkpointing; None checkpoints nothing.
    """

    def __init__(self, where: str, reentrant: bool | None) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4) if where in ("before", "around") else nn.Identity()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))
        self.behind = nn.Linear(4, 4) if where in ("behind", "around") else nn.Identity()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for part in self.parts:
            x = part(x) if self.reentrant is None else checkpoint(part, x, use_reentrant=self.reentrant)
        return self.behind(x)


@pytest.mark.parametrize(("where", "micro"), [*product(["before", "behind", "around", "nowhere"], [1, 2])])
def test_passes_within_a_pass_are_part_of_it(where: str, micro: int) -> None:
    totals = []
    for reentrant in (None, False, True):
        model = made(lambda where=where, reentrant=reentrant: Checkpointed(where, reentrant)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        torch.manual_seed(1)
        with gl.watch(model, optimizer, every=1, measure=["responses", "gradients", "noise"]) as watch:
            for _ in range(3):
                optimizer.zero_grad()
                loss = 0.0
                for _ in range(micro):
                    # Reentrant checkpointing needs an input with a gradient.
                    part = model(torch.randn(5, 4, dtype=torch.float64).requires_grad_()).square().mean() / micro
                    part.backward()
                    loss += part.item()
                losses.append(loss)
                optimizer.step()
        result = watch.result()
        assert not result.notes
        totals.append([values(result.frame, step, "total") for step in range(3)])
        assert [total["loss"] for total in totals[-1]] == pytest.approx(losses, rel=1e-12)
    assert ("gradient_variance" in totals[0][0]) == (micro > 1)
    for other in totals[1:]:
        for expected, found in zip(totals[0], other, strict=True):
            assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("where", ["before", "around"])
def test_a_pass_after_one_that_failed(where: str) -> None:
    model = made(lambda: Checkpointed(where, True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fail(gradient: Tensor) -> None:
        raise RuntimeError("on purpose")

    with gl.watch(model, optimizer, every=1) as watch:
        for is_whole in (False, True):
            optimizer.zero_grad()
            x = torch.randn(5, 4).requires_grad_()
            if not is_whole:
                x.register_hook(fail)
            loss = model(x).square().mean()
            if is_whole:
                loss.backward()
                optimizer.step()
            else:
                with pytest.raises(RuntimeError, match="on purpose"):
                    loss.backward()
    total = values(watch.result().frame, 0, "total")
    assert total["loss"] == pytest.approx(loss.item(), rel=1e-6)
