"""One cell of the table: what a probe gives in a situation, held against the brute force."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

import gradlab as gl
from conformance.brute_force import Expected, expected, make_scaler, plain
from conformance.runs import Run, make_model, random_states
from conformance.situation import (
    EXAMPLES,
    INPUTS,
    PARAMETERS,
    PROBE_BACKWARD,
    RESPONSE_GRADIENTS,
    RESPONSES,
    Situation,
)


class Differs(AssertionError):
    """The third outcome: a number that is wrong, or missing, or too many."""


@dataclass
class Outcome:
    """What came of a cell: `equal`, `refused` with a sentence, or `wrong` with what was got and what is right."""

    kind: str
    sentence: str = ""


def outcome(situation: Situation, probe: str) -> Outcome:
    """Run a probe in a situation."""
    try:
        check(situation, probe)
    except gl.GradlabError as error:
        return Outcome("refused", str(error))
    except Differs as error:
        return Outcome("wrong", str(error))
    except Exception as error:
        return Outcome("wrong", f"raw {type(error).__name__}: {' '.join(str(error).split())[:160]}")
    return Outcome("equal")


def check(situation: Situation, probe: str) -> None:
    """Hold what the probe gives against the brute force.

    Raises:
        Differs: Where they do.
        GradlabError: Where the probe refuses.
    """
    right = expected(situation)
    found, run = measured(situation, probe)
    {
        RESPONSES: _check_responses,
        PARAMETERS: _check_parameters,
        RESPONSE_GRADIENTS: _check_response_gradients,
        INPUTS: _check_inputs,
    }.get(probe, _check_examples)(situation, right, found)
    _check_nothing_else_changed(situation, run)


def measured(situation: Situation, probe: str, **options: Any) -> tuple[Any, Run]:
    """Run the loop with a probe on; the probe, left, and the run."""
    scaler = make_scaler(situation)
    given = {**situation.options.get(probe, {}), **options}
    if scaler is not None and probe not in (RESPONSES, INPUTS):
        given["scaler"] = scaler
    if probe in EXAMPLES:
        given["reduction"] = situation.reduction
    kind = getattr(gl, probe.partition(",")[0])
    model = make_model(situation)
    with _quiet(), situation.around(model):
        if situation.managed:
            run = Run(situation, model, make=lambda module: kind(module, **given), scaler=scaler)
            run.go()
            return run.probe, run
        gradients: list[torch.Tensor] = []
        found = kind(model, **given, **({"observe": gradients.append} if probe == INPUTS else {}))
        run = Run(situation, model, found, found.backward if probe == PROBE_BACKWARD else None, scaler=scaler)
        with found:
            run.go()
    return (found, gradients) if probe == INPUTS else found, run


@contextmanager
def _quiet() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _close(got: float, right: float | None, tolerance: float, scale: float = 0.0) -> bool:
    """Whether two numbers agree; of those that should be 0 rounding may have left a trace of the scale."""
    if right is None or math.isnan(right):
        return math.isnan(got)
    return abs(got - right) <= tolerance * abs(right) + 1e-12 * scale


def _compare(what: str, got: dict[Any, float], right: dict[Any, float | None], tolerance: float) -> None:
    scale = max((abs(value) for value in right.values() if value is not None and math.isfinite(value)), default=0.0)
    off = [
        f"{_label(key)} {got[key]:.6g}, right {'none' if right[key] is None else format(right[key], '.6g')}"
        for key in right
        if key in got and not _close(got[key], right[key], tolerance, scale)
    ]
    if off:
        raise Differs(f"{what}: {'; '.join(off[:4])}{f'; … {len(off)} of {len(right)}' if len(off) > 4 else ''}")


def _label(key: Any) -> str:
    return key if isinstance(key, str) else key[0] if key[1] == 1 else f"{key[0]} (call {key[1]})"


def _same_keys(what: str, got: dict[Any, Any], right: dict[Any, Any], optional: set[Any] = frozenset()) -> None:  # type: ignore[assignment]
    missing = [_label(key) for key in right if key not in got and key not in optional]
    more = [_label(key) for key in got if key not in right]
    if missing or more:
        raise Differs(f"{what}: missing {missing or 'nothing'}, too many {more or 'none'}")


def _in_order(frame: pd.DataFrame, order: list[str]) -> None:
    there = list(dict.fromkeys(frame.sort_values("index")["layer"]))
    got = [layer for layer in there if layer in order]
    right = [layer for layer in order if layer in there]
    if got != right:
        raise Differs(f"order {got}, right {right}")


def _nothing_in_silence(result: Any, rows: list[str]) -> None:
    """Every row of weights is in the result, or the result says why it is not."""
    there = set(result.to_frame()["layer"])
    named = {name for names in result.coverage.left_out.values() for name in names}
    # A recurrent layer has rows of several weights, and one response.
    silent = [row for row in rows if row not in there | named and row.rpartition(".")[0] not in there]
    if silent:
        raise Differs(f"{silent} are neither measured nor named among those that are not")


def _check_responses(situation: Situation, right: Expected, probe: Any) -> None:
    result = probe.result()
    frame = result.to_frame()
    _nothing_in_silence(result, right.rows)
    got = {(row.layer, row.call): row.std for row in frame.itertuples()}
    _same_keys("responses", got, right.std, right.optional)
    _compare("std", got, dict(right.std), situation.tolerance)
    _in_order(frame, right.order)


def _steps(frame: pd.DataFrame, right: Expected) -> list[pd.DataFrame]:
    steps = sorted(frame["step"].unique())
    if steps != list(range(len(right.norms))):
        raise Differs(f"steps {steps}, right {len(right.norms)} of them")
    return [frame[frame["step"] == step] for step in steps]


def _check_parameters(situation: Situation, right: Expected, probe: Any) -> None:
    result = probe.result()
    frame = result.to_frame()
    _nothing_in_silence(result, right.rows)
    layers = frame[frame["layer"] != "total"]
    for step, norms in zip(_steps(layers, right), right.norms, strict=True):
        got = dict(zip(step["layer"], step["grad_norm"], strict=True))
        _same_keys("rows", got, norms)
        _compare("grad_norm", got, norms, situation.tolerance)
        _absent_is_said(step, "grad_norm")
    _in_order(layers, [layer for layer in right.order if (layer, 1) not in right.optional])


def _absent_is_said(step: pd.DataFrame, column: str) -> None:
    silent = step[step[column].isna() & step["absent"].isna()]
    if len(silent):
        raise Differs(f"{column} of {silent['layer'].tolist()} is missing without a reason")


def _check_response_gradients(situation: Situation, right: Expected, probe: Any) -> None:
    result = probe.result()
    frame = result.to_frame()
    _nothing_in_silence(result, right.rows)
    for block, expectations in ((False, right.response_norms), (True, right.block_norms)):
        if block and not any(expectations):
            continue
        rows = frame[(frame["block"] == block)]
        what = "gradients of blocks" if block else "gradients of responses"
        for step, norms in zip(_steps(rows, right), expectations, strict=True):
            got = {(row.layer, int(row.call)): row.response_grad_norm for row in step.itertuples()}
            # Rows of layers that never run, or of no response, say so.
            unseen = {(row.layer, int(row.call)) for row in step.itertuples() if row.absent is not None}
            _same_keys(what, {k: v for k, v in got.items() if k in norms or k not in unseen}, norms, right.optional)
            _compare(what, got, norms, situation.tolerance)
            _absent_is_said(step, "response_grad_norm")
    _in_order(frame[~frame["block"] & frame["absent"].isna()], right.order)


def _check_examples(situation: Situation, right: Expected, probe: Any) -> None:
    result, each = probe.result(), probe.examples()
    frame = result.to_frame()
    _nothing_in_silence(result, right.rows)
    tolerance = situation.example_tolerance or situation.tolerance
    steps = [frame[frame["step"] == step] for step in range(len(right.norms))]
    _steps(frame, right)
    for number, (step, norms, examples) in enumerate(zip(steps, right.norms, right.examples, strict=True)):
        got = dict(zip(step["layer"], step["grad_norm"], strict=True))
        total = right.totals[number] if any(norm is not None for norm in norms.values()) else None
        _same_keys("rows", got, {**norms, "total": total})
        _compare("grad_norm", got, {**norms, "total": total}, situation.tolerance)
        _absent_is_said(step, "grad_norm")
        own = each[each["step"] == number]
        for layer, values in examples.items():
            found = own[own["layer"] == layer].sort_values("example")["norm"].tolist()
            wanted = values.norms if values is not None else []
            if values is None and len(found) and not any(found):
                continue
            if len(found) != len(wanted):
                raise Differs(f"{layer}: {len(found)} norms of {len(wanted)} examples")
            _compare(f"norms of examples in {layer}", *_numbered(found, wanted), tolerance)
        if "diversity" in step:
            there = {layer: values.diversity for layer, values in examples.items() if values is not None}
            got = dict(zip(step["layer"], step["diversity"], strict=True))
            if any("diversity" in note or "variance" in note for note in result.notes):
                # What is missing with a reason is not wrong.
                got = {layer: value for layer, value in got.items() if not math.isnan(value)}
            _compare("diversity", got, dict(there), 10 * tolerance)
    _in_order(frame[frame["layer"] != "total"], [one for one in right.order if (one, 1) not in right.optional])


def _numbered(found: list[float], wanted: list[float]) -> tuple[dict[str, float], dict[str, float | None]]:
    names = [f"example {i}" for i in range(len(wanted))]
    return dict(zip(names, found, strict=True)), dict(zip(names, wanted, strict=True))


def _check_inputs(situation: Situation, right: Expected, measured: tuple[Any, list[torch.Tensor]]) -> None:
    probe, gradients = measured
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


def _same_tensor(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    if got.shape != wanted.shape:
        return False
    if not got.numel():
        return True
    return bool((got.double() - wanted.double()).abs().max() <= tolerance * wanted.double().abs().max())


def _check_nothing_else_changed(situation: Situation, run: Run) -> None:
    snapshots, buffers, states = plain(situation)
    for number, (got, wanted) in enumerate(zip(run.snapshots, snapshots, strict=True)):
        for name, gradient in wanted.items():
            there = got[name]
            if (there is None) != (gradient is None):
                raise Differs(f"step {number}: the probe changes whether {name} has a gradient")
            if (
                there is not None
                and gradient is not None
                and not torch.allclose(
                    there,
                    gradient,
                    rtol=10 * situation.tolerance,
                    atol=1e-9
                    if situation.dtype is torch.float64
                    else 1e-6 * float(gradient.abs().max())
                    if gradient.numel()
                    else 0.0,
                )
            ):
                raise Differs(f"step {number}: the probe changes the gradient of {name}")
    for name, buffer in run.net.named_buffers():
        if not torch.equal(buffer, buffers[name]):
            raise Differs(f"the probe changes the buffer {name}")
    if random_states() != states:
        raise Differs("the probe moves a random state")


def names_of(situation: Situation) -> set[str]:
    """Everything of the model that an error may name."""
    model: nn.Module = make_model(situation)
    modules = {name for name, _ in model.named_modules() if name}
    classes = {type(module).__name__ for module in model.modules()}
    return modules | classes | {name for name, _ in model.named_parameters()}
