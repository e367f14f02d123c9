"""What a probe gives, held against the brute force: numbers, which rows there are, their order, what is left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd
from torch import Tensor

from conformance.brute_force import Expected
from conformance.situation import INPUTS, PARAMETERS, RESPONSE_GRADIENTS, RESPONSES, Situation

Row = dict[str, Any]


class Differs(AssertionError):
    """The third outcome: a number that is wrong, or missing, or too many."""


def check_values(situation: Situation, probe: str, right: Expected, found: Any) -> None:
    """Hold what a probe gives against what is right.

    Args:
        situation: Where it was on.
        probe: Which it is.
        right: By brute force.
        found: The probe, after the run; of `InputGradients` with the gradients that it gave.

    Raises:
        Differs: Where they do.
        GradlabError: Where the probe refuses.
    """
    if probe == INPUTS:
        _check_inputs(situation, right, *found)
        return
    result = found.result()
    rows = rows_of(result.to_frame())
    _nothing_in_silence(result, {row["layer"] for row in rows}, right.rows)
    if probe == RESPONSES:
        _check_responses(situation, right, rows)
    elif probe == PARAMETERS:
        _check_parameters(situation, right, rows)
    elif probe == RESPONSE_GRADIENTS:
        _check_response_gradients(situation, right, rows)
    else:
        _check_examples(situation, right, rows, found.examples(), result.notes)


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame as plain values."""
    columns = {name: frame[name].tolist() for name in frame}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def compare(what: str, got: Mapping[Any, float], right: Mapping[Any, float | None], tolerance: float) -> None:
    """Hold numbers against each other that have the same keys.

    Raises:
        Differs: Where one is off by more than the tolerance, or there where it should be missing.
    """
    off = [key for key in right if key in got and not _close(got[key], right[key], tolerance)]
    if off:
        each = [f"{_label(key)} {got[key]:.6g}, right {_text(right[key])}" for key in off[:4]]
        raise Differs(f"{what}: {'; '.join(each)}{f'; … {len(off)} of {len(right)}' if len(off) > 4 else ''}")


def _close(got: float, right: float | None, tolerance: float) -> bool:
    if right is None or math.isnan(right):
        return math.isnan(got)
    # What cancels in one order of summation leaves a trace in another.
    return abs(got - right) <= tolerance * abs(right) or max(abs(got), abs(right)) < 1e-290 or got == right


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _label(key: Any) -> str:
    return key if isinstance(key, str) else key[0] if key[1] == 1 else f"{key[0]} (call {key[1]})"


def _same_keys(what: str, got: Iterable[Any], right: Iterable[Any], optional: Iterable[Any] = ()) -> None:
    got, right = list(got), list(right)
    missing = [_label(key) for key in right if key not in got and key not in optional]
    more = [_label(key) for key in got if key not in right]
    if missing or more:
        raise Differs(f"{what}: missing {missing or 'nothing'}, too many {more or 'none'}")


def _in_order(rows: Iterable[Row], right: Expected, keep: Callable[[Row], bool] = lambda row: True) -> None:
    """The rows of layers that run stand in the order of execution."""
    wanted = [layer for layer in right.order if (layer, 1) not in right.optional]
    numbered = [row for row in rows if keep(row) and row["layer"] in wanted]
    got = list(dict.fromkeys(row["layer"] for row in sorted(numbered, key=lambda row: row["index"])))
    if got != (there := [layer for layer in wanted if layer in got]):
        raise Differs(f"order {got}, right {there}")


def _nothing_in_silence(result: Any, there: set[str], rows: Iterable[str]) -> None:
    """Every row of weights is in the result, or the result says why it is not."""
    named = {name for names in result.coverage.left_out.values() for name in names}
    # A recurrent layer has rows of several weights, and one response.
    silent = [row for row in rows if row not in there | named and row.rpartition(".")[0] not in there]
    if silent:
        raise Differs(f"{silent} are neither measured nor named among those that are not")


def _absence_is_said(rows: Iterable[Row], column: str) -> None:
    silent = [row["layer"] for row in rows if math.isnan(row[column]) and row["absent"] is None]
    if silent:
        raise Differs(f"{column} of {silent} is missing without a reason")


def _by_step(rows: Iterable[Row], right: Expected) -> list[list[Row]]:
    steps: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        steps[int(row["step"])].append(row)
    if sorted(steps) != list(range(len(right.norms))):
        raise Differs(f"steps {sorted(steps)}, right {len(right.norms)} of them")
    return [steps[number] for number in sorted(steps)]


def _check_responses(situation: Situation, right: Expected, rows: list[Row]) -> None:
    got = {(row["layer"], row["call"]): row["std"] for row in rows}
    _same_keys("responses", got, right.std, right.optional)
    compare("std", got, right.std, situation.tolerance)
    _in_order(rows, right)


def _check_parameters(situation: Situation, right: Expected, rows: list[Row]) -> None:
    layers = [row for row in rows if row["layer"] != "total"]
    for step, norms in zip(_by_step(layers, right), right.norms, strict=True):
        got = {row["layer"]: row["grad_norm"] for row in step}
        _same_keys("rows", got, norms)
        compare("grad_norm", got, norms, situation.tolerance)
        _absence_is_said(step, "grad_norm")
    _in_order(layers, right)


def _check_response_gradients(situation: Situation, right: Expected, rows: list[Row]) -> None:
    for block, expectations in ((False, right.response_norms), (True, right.block_norms)):
        if block and not any(expectations):
            continue
        what = "gradients of blocks" if block else "gradients of responses"
        steps = _by_step([row for row in rows if row["block"] == block], right)
        for step, norms in zip(steps, expectations, strict=True):
            got = {(row["layer"], row["call"]): row["response_grad_norm"] for row in step}
            # Rows of layers that never run, or of no response, say so.
            unseen = {(row["layer"], row["call"]) for row in step if row["absent"] is not None}
            _same_keys(what, [key for key in got if key in norms or key not in unseen], norms, right.optional)
            compare(what, got, norms, situation.tolerance)
            _absence_is_said(step, "response_grad_norm")
    _in_order(rows, right, lambda row: not row["block"] and row["absent"] is None)


def _check_examples(
    situation: Situation, right: Expected, rows: list[Row], each: pd.DataFrame, notes: list[str]
) -> None:
    tolerance = situation.example_tolerance or situation.tolerance
    norms_of: dict[tuple[int, str], dict[str, float]] = defaultdict(dict)
    for row in rows_of(each):
        norms_of[row["step"], row["layer"]][f"example {row['example']}"] = row["norm"]
    for number, step in enumerate(_by_step(rows, right)):
        norms, total = right.norms[number], right.totals[number]
        wanted = {**norms, "total": total if any(norm is not None for norm in norms.values()) else None}
        got = {row["layer"]: row["grad_norm"] for row in step}
        _same_keys("rows", got, wanted)
        compare("grad_norm", got, wanted, situation.tolerance)
        _absence_is_said(step, "grad_norm")
        for layer, values in right.examples[number].items():
            found = norms_of[number, layer]
            if values is None and not any(found.values()):
                continue
            own = {f"example {i}": norm for i, norm in enumerate(values.norms if values else [])}
            _same_keys(f"norms in {layer}", found, own)
            compare(f"norms of examples in {layer}", found, own, tolerance)
        _check_diversity(step, right, number, notes, 10 * tolerance)
    _in_order(rows, right, lambda row: row["layer"] != "total")


def _check_diversity(step: list[Row], right: Expected, number: int, notes: list[str], tolerance: float) -> None:
    got = {row["layer"]: row["diversity"] for row in step if "diversity" in row}
    if any("diversity" in note or "variance" in note for note in notes):
        # What is missing with a reason is not wrong.
        got = {layer: value for layer, value in got.items() if not math.isnan(value)}
    wanted = {layer: values.diversity for layer, values in right.examples[number].items() if values is not None}
    compare("diversity", got, wanted, tolerance)


def _check_inputs(situation: Situation, right: Expected, probe: Any, gradients: list[Tensor]) -> None:
    if not gradients:
        probe.result()
    if len(gradients) != len(right.inputs):
        raise Differs(f"{len(gradients)} passes, right {len(right.inputs)}")
    # Of passes in two threads either may be the first.
    left = list(gradients)
    for number, wanted in enumerate(right.inputs):
        if wanted is None:
            raise Differs("a gradient where there is none")
        equal = [i for i, got in enumerate(left) if _same_tensor(got, wanted, situation.tolerance)]
        if not equal:
            got = gradients[number].double().norm()
            raise Differs(f"pass {number}: gradient of norm {got:.6g}, right {wanted.double().norm():.6g}")
        left.pop(equal[0])


def _same_tensor(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    if got.shape != wanted.shape:
        return False
    if not got.numel():
        return True
    return bool((got.double() - wanted.double()).abs().max() <= tolerance * wanted.double().abs().max())
