"""Every probe in every situation: equal to brute force, or refused with one sentence; no third outcome."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch

import gradlab as gl
from conformance.brute_force import expected, parameters_of, plain
from conformance.cells import measured, names_of, outcome
from conformance.checks import compare, rows_of
from conformance.page import PAGE, page
from conformance.runs import make_model
from conformance.situation import EXAMPLES, LOSS_BACKWARD, PARAMETERS, PROBES, RESPONSES, Situation, vectors
from conformance.situations import SITUATIONS
from conformance.situations.networks import mlp, mlp_by_hand
from conformance.situations.steps import accumulating

BY_NAME = {situation.name: situation for situation in SITUATIONS}
CELLS = [(s, probe) for s in SITUATIONS for probe in PROBES if probe not in s.blank]


def named(value: object) -> str:
    return value.name if isinstance(value, Situation) else str(value)


def test_there_are_enough_situations_and_no_name_twice() -> None:
    assert len(BY_NAME) == len(SITUATIONS) >= 60


@pytest.mark.parametrize("situation", SITUATIONS, ids=named)
def test_the_computation_by_hand_is_that_of_the_model(situation: Situation) -> None:
    """So that what is right is not a mistake of the hand: gradients of parameters, by the model without any probe."""
    by_hand, by_model = expected(situation).snapshots, plain(situation)[0]
    assert len(by_hand) == len(by_model) > 0
    for ours, theirs in zip(by_hand, by_model, strict=True):
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            assert (gradient is None) == (ours[name] is None), name
            if gradient is not None and not situation.scaler:
                torch.testing.assert_close(ours[name], gradient, rtol=10 * situation.tolerance, atol=1e-12, msg=name)


@pytest.mark.parametrize(("situation", "probe"), CELLS, ids=named)
def test_equal_or_refused(situation: Situation, probe: str) -> None:
    found, word = outcome(situation, probe), situation.refused.get(probe)
    if word is None:
        assert found.kind == "equal", found.sentence
        return
    assert found.kind == "refused", f"{found.kind}, where it was refused with {word!r}: {found.sentence}"
    assert word in found.sentence
    assert "\n" not in found.sentence
    assert len(found.sentence) < 500


@pytest.mark.parametrize("situation", [s for s in SITUATIONS if s.refused], ids=named)
def test_a_refusal_names_what_it_is_about(situation: Situation) -> None:
    """A layer of the model, or the argument or the part of the loop that is to be changed."""
    known = {*names_of(situation), "model", "loss", "losses", "input", "inputs", "batch", "use_reentrant"}
    for probe in situation.refused:
        words = {word.strip(".,:;()'`") for word in outcome(situation, probe).sentence.split()}
        assert known & words, outcome(situation, probe).sentence


@pytest.mark.parametrize(
    "situation", [s for s in SITUATIONS if PARAMETERS not in s.refused and not s.managed], ids=named
)
def test_all_parameters_are_covered_and_make_the_total(situation: Situation) -> None:
    probe, _ = measured(situation, PARAMETERS, parameters="all")
    result = probe.result()
    assert result.coverage.total == parameters_of(make_model(situation))
    totals = result.totals().sort_values("step")["grad_norm"].fillna(0.0).tolist()
    assert totals == pytest.approx(expected(situation).totals, rel=situation.tolerance)


@pytest.mark.parametrize("situation", SITUATIONS, ids=named)
def test_examples_and_parameters_agree_on_a_steps_gradient(situation: Situation) -> None:
    if PARAMETERS in situation.refused:
        pytest.skip("no probe of parameters measures it")
    right = norms_of(situation, PARAMETERS)
    for probe in EXAMPLES:
        if probe not in situation.refused and probe not in situation.blank:
            compare("grad_norm", norms_of(situation, probe), right, situation.tolerance)


def norms_of(situation: Situation, probe: str) -> dict[tuple[str, int], float]:
    """By layer and step."""
    rows = rows_of(measured(situation, probe)[0].result().to_frame())
    return {(row["layer"], row["step"]): row["grad_norm"] for row in rows if row["layer"] != "total"}


@pytest.mark.parametrize("name", ["blocks that normalize first", "torch's transformer layers"])
def test_what_is_asked_for_is_measured(name: str) -> None:
    """A block's response is its own output, whatever normalization may follow."""
    situation = BY_NAME[name]
    right = expected(situation).block_std
    probe, _ = measured(situation, RESPONSES, layers=",".join(layer for layer, _ in right))
    frame = probe.result().to_frame()
    found = {(row.layer, row.call): row.std for row in frame.itertuples()}
    assert found == pytest.approx(right, rel=situation.tolerance)


def test_responses_that_need_exact_sums_say_so() -> None:
    exact = next(situation for situation in SITUATIONS if situation.options.get(RESPONSES) == {"exact": True})
    probe, _ = measured(exact, RESPONSES, exact=False)
    assert any(note.startswith("0: ") and "exact=True" in note for note in probe.result().notes)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("probe", EXAMPLES)
def test_norms_of_examples_do_not_depend_on_how_a_batch_is_cut(probe: str, reduction: str) -> None:
    found = []
    for sizes in ([12], [6, 6], [3, 3, 3, 3], [1] * 12):
        situation = cut(sizes, reduction)
        examples = measured(situation, probe)[0].examples()
        found.append(examples[examples["layer"] == "total"].sort_values("example")["norm"].tolist())
    for norms in found[1:]:
        assert norms == pytest.approx(found[0], rel=1e-9)


def cut(sizes: list[int], reduction: str) -> Situation:
    """A batch of twelve in micro-batches; where the loss is a sum, nothing is divided."""

    def objective(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        times = 1 if reduction == "mean" else len(sizes)
        return times * torch.nn.functional.cross_entropy(net(x), y, reduction=reduction)

    loop = functools.partial(accumulating, sizes)
    return Situation(
        f"{len(sizes)} micro-batches",
        "The step",
        mlp,
        mlp_by_hand,
        data=lambda: vectors(12),
        objective=objective,
        loop=loop,
        reduction=reduction,
    )


@pytest.mark.parametrize("name", ["torch.compile of the model", "model.compile()", "torch.compile of a method"])
def test_compiled_code_that_runs_eagerly_is_said(name: str) -> None:
    said(BY_NAME[name])


def test_a_compiled_function_around_the_model_is_said() -> None:
    said(BY_NAME["torch.compile of a function around the model"])


def said(situation: Situation) -> None:
    model = make_model(situation)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from conformance.runs import Run

        with gl.ResponseStd(model) as probe:
            Run(situation, model, probe).go()
        notes = probe.result().notes
    assert any("compile" in text for text in [*notes, *(str(warning.message) for warning in caught)])


def test_a_probe_by_loss_backward_is_the_same_as_by_its_own() -> None:
    """Where one way is refused, so is the other, and in the same words."""
    for situation in SITUATIONS:
        ways = {probe: situation.refused.get(probe) for probe in EXAMPLES if probe not in situation.blank}
        assert len(set(ways.values())) <= 1 or LOSS_BACKWARD not in ways, situation.name


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(outcome), "python scripts/write_conformance.py writes docs/conformance.md anew"
