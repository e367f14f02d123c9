"""The watch in every situation in which an optimizer may step: equal to brute force, or refused with one sentence."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradlab as gl
from conformance.brute_force import _norm, _parts, _stds, plain, rows_of
from conformance.checks import compare
from conformance.reference import Note, Site
from conformance.runs import ReferenceRun, Run, hooks_of, make_model, random_states
from conformance.situation import Situation
from conformance.situations import SITUATIONS
from gradlab.probes.watch import watch

# What the watch gives is not what the probes give there: gradients before clipping. Scaled steps have their own tests.
OTHERWISE = {"clip_grad_norm_ before the step"}
CASES = [s for s in SITUATIONS if not s.scaler and not s.managed and s.name not in OTHERWISE]


class Still(torch.optim.Optimizer):
    """An optimizer that leaves weights as they are: the situation's loop changes them itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {"lr": 0.0})

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Do nothing, between the hooks."""


def watched(situation: Situation) -> tuple[Any, Run, tuple[object, ...]]:
    model = make_model(situation)
    with warnings.catch_warnings(), situation.around(model):
        warnings.simplefilter("ignore")
        still = Still(model)
        found = watch(model, still, every=1)
        run = Run(situation, model, still)
        with found:
            run.go()
    return found, run, random_states()


@functools.cache
def outcome(situation: Situation) -> tuple[str, Any]:
    try:
        found, *after = watched(situation)
        return "measured", (found.result(), *after)
    except gl.GradlabError as error:
        return "refused", str(error)


@pytest.mark.parametrize("situation", CASES, ids=lambda s: s.name)
def test_what_is_watched_is_right_or_refused(situation: Situation) -> None:
    kind, found = outcome(situation)
    if kind == "refused":
        assert any(word in found for word in situation.refused.values()) or len(found.split()) > 5, found
        pytest.skip(f"refused: {found[:150]}")
    result, run, states = found
    frame, said = result.to_frame(), " ".join(result.notes)
    reference = ReferenceRun(situation, make_model(situation))
    reference.go()
    rows = rows_of(situation, reference.net.weights)
    assert sorted(frame["step"].unique()) == list(range(len(reference.steps)))
    for number, step in enumerate(reference.steps):
        measured = frame[frame["step"] == number]
        norms = {row: _norm(_parts(step.gradients, parts)) for row, parts in rows.items()}
        check(measured, "grad_norm", {name: norm for name, norm in norms.items() if norm is not None}, situation, said)
        notes = [note for note in step.notes if not note.block and note.value.requires_grad]
        optional = {named(note.site) for note in notes if not note.demanded or not note.value.numel()}
        stds = {named(site): std for site, std in _stds(notes).items()}
        check(measured, "response_std", stds, situation, said, optional)
        check(measured, "response_grad_rms", rms(notes), situation, said, optional)
    snapshots, buffers, wanted = plain(situation)
    assert len(run.snapshots) == len(snapshots)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in run.net.named_buffers())
    assert states == wanted
    assert hooks_of(run.net) == hooks_of(make_model(situation))


def check(
    frame: Any, statistic: str, right: dict[str, float], situation: Situation, said: str, optional: Any = ()
) -> None:
    got = frame[(frame["statistic"] == statistic) & (frame["layer"] != "total")].set_index("layer")["value"].to_dict()
    # A value that is refused is named with the reason.
    missing = [name for name in right if name not in got and name not in optional and name not in said]
    assert not missing, f"{statistic}: {missing} missing, there is {list(got)}"
    compare(statistic, got, right, situation.tolerance)


def named(site: Site) -> str:
    return site[0] if site[1] == 1 else f"{site[0]} (call {site[1]})"


def rms(notes: list[Note]) -> dict[str, float]:
    found = {}
    for site in {note.site: None for note in notes}:
        grads = [note.grad for note in notes if note.site == site and note.grad is not None]
        if norm := _norm(grads):
            found[named(site)] = norm / math.sqrt(sum(grad.numel() for grad in grads))
    return found
