"""What every architecture is held to, probe by probe; each check says all that is wrong at once."""

import math
from collections.abc import Callable
from functools import cached_property

import pandas as pd
import torch
from architectures import brute_force
from architectures.brute_force import Rows, norm_of, rows_of
from architectures.catalog import Architecture, examples_of, loss_of
from torch import nn

import gradlab as gl


class Subject:
    """An architecture, built once, and the right values for it, each computed once."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.model, self.batch = architecture.model(), architecture.inputs()
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}

    @cached_property
    def gradients(self) -> dict[nn.Parameter, torch.Tensor]:
        return brute_force.gradients_of(self.model, self.batch)

    @cached_property
    def example_gradients(self) -> list[dict[nn.Parameter, torch.Tensor]]:
        return brute_force.example_gradients_of(self.model, self.batch)

    @cached_property
    def responses(self) -> dict[brute_force.Site, tuple[float, float | None]]:
        return brute_force.responses_of(self.model, self.batch)

    def loss(self) -> torch.Tensor:
        return loss_of(self.model(**self.batch))

    def differs(self, found: float, expected: float | None) -> bool:
        """Whether a number is not what is expected; where nothing is expected it must be missing, or nothing."""
        if expected is None:
            return not (math.isnan(found) or found == 0)
        tolerance = self.architecture.tolerance
        return not math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance * 1e-3)


def say(wrong: list[str]) -> None:
    shown = "; ".join(wrong[:4]) + (f"; … ({len(wrong)} in all)" if len(wrong) > 4 else "")
    assert not wrong, shown


def compare_names(found: list[str], expected: list[str]) -> list[str]:
    wrong = [f"no row for {name}" for name in expected if name not in found]
    wrong += [f"row {name} is not expected" for name in found if name not in expected]
    return wrong + [f"{found.count(name)} rows for {name}" for name in dict.fromkeys(found) if found.count(name) > 1]


def compare_coverage(result: gl.Result, measured: int, total: int, weights: int, weights_total: int) -> list[str]:
    """That a result says of its coverage what is so, in elements."""
    coverage = result.coverage
    said = {
        "measured": (coverage.measured, measured),
        "total": (coverage.total, total),
        "weights_measured": (coverage.weights_measured, weights),
        "weights_total": (coverage.weights_total, weights_total),
    }
    return [f"coverage.{name} is {found}, not {right}" for name, (found, right) in said.items() if found != right]


def elements(rows: Rows, names: list[str] | None = None, weights: bool = False) -> int:
    """How many elements the parts of rows have, those of shared parameters once."""
    parts = {(p, str(index)): p[index].numel() for n in names or rows for p, index in rows.get(n, [])}
    return sum(numel for (p, *_), numel in parts.items() if p.ndim >= 2 or not weights)


def left_out_names(result: gl.Result) -> set[str]:
    return {name for names in result.coverage.left_out.values() for name in names}


def check_parameters(subject: Subject, everything: bool) -> None:
    """Every row, its norm, the norm of all, and what is said of the coverage."""
    model, rows = subject.model, rows_of(subject.model, everything)
    model.zero_grad()
    with gl.ParameterGradients(model, **({"parameters": "all"} if everything else {})) as probe:
        subject.loss().backward()
        probe.step()
    result = probe.result()
    frame = result.to_frame()
    wrong = compare_names(list(frame.layer), list(rows))
    for row in frame.itertuples():
        if (parts := rows.get(row.layer)) is not None:
            expected = norm_of(parts, subject.gradients)
            if subject.differs(row.grad_norm, expected):
                wrong.append(f"grad_norm of {row.layer} is {row.grad_norm:.6g}, not {expected}")
            if row.numel != (numel := sum(p[s].numel() for p, s in parts)):
                wrong.append(f"numel of {row.layer} is {row.numel}, not {numel}")
    counted = list(dict.fromkeys(p for parts in rows.values() for p, _ in parts))
    expected = math.hypot(*(subject.gradients[p].norm().item() for p in counted if p in subject.gradients))
    totals = result.totals()["grad_norm"].tolist()
    total = totals[0] if len(totals) == 1 else math.nan
    if subject.differs(total, expected):
        wrong.append(f"totals() gives {total:.6g}, not {expected:.6g}")
    if everything:
        clipped = nn.utils.clip_grad_norm_(model.parameters(), 1e9).item()
        if subject.differs(total, clipped):
            wrong.append(f"totals() gives {total:.6g}, clip_grad_norm_ {clipped:.6g}")
    every = sum(p.numel() for p in model.parameters())
    weights = sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    wrong += compare_coverage(result, elements(rows), every, elements(rows, weights=True), weights)
    wrong += [f"{n} is left out in silence" for n in _others(subject, rows) - left_out_names(result)]
    model.zero_grad()
    say(wrong)


def _others(subject: Subject, rows: Rows) -> set[str]:
    """The parameters of no row, by name."""
    counted = {p for parts in rows.values() for p, _ in parts}
    return {name for p, name in subject.names.items() if p not in counted}


def _covered(subject: Subject, layers: list[str], result: gl.Result) -> list[str]:
    """That all parameters that are applied to a signal have a response, and that the others are named."""
    rows, wrong = rows_of(subject.model), []
    modules = dict(subject.model.named_modules())
    below = {n: f"{n}." for n in layers if isinstance(modules.get(n), nn.RNNBase)}
    named = left_out_names(result)
    counted = {p for n in layers for p, _ in rows.get(n, [])}
    missed = 0
    for name, parts in rows.items():
        if name in layers or any(name.startswith(prefix) for prefix in below.values()):
            continue
        if any(subject.architecture.responds(subject.names[p]) and p not in counted for p, _ in parts):
            missed += sum(p[s].numel() for p, s in parts)
        if name not in named:
            wrong.append(f"{name} is left out in silence")
    if missed > 0.01 * elements(rows):
        wrong.insert(0, f"covers {1 - missed / elements(rows):.1%} of the weights that are applied to a signal")
    return wrong


def _compare_sites(
    subject: Subject, frame: pd.DataFrame, expected: dict[brute_force.Site, float | None], column: str
) -> list[str]:
    found = {(row.layer, row.call): getattr(row, column) for row in frame.itertuples()}
    wrong = [f"no {column} of {layer}, call {call}" for layer, call in expected if (layer, call) not in found]
    for (layer, call), value in found.items():
        if (layer, call) not in expected:
            if not math.isnan(value):
                wrong.append(f"{column} of {layer}, call {call}, which is not expected")
        elif subject.differs(value, expected[layer, call]):
            wrong.append(f"{column} of {layer}, call {call} is {value:.6g}, not {expected[layer, call]}")
    order = list(dict.fromkeys(layer for layer, _ in found if any(layer == name for name, _ in expected)))
    if order != (right := [n for n in dict.fromkeys(name for name, _ in expected) if n in order]):
        at = next(i for i, (a, b) in enumerate(zip(order, right, strict=True)) if a != b)
        wrong.append(f"{order[at]} stands where {right[at]} ran")
    return wrong


def check_responses(subject: Subject) -> None:
    """The std of each site by plain hooks, and no weight left out in silence; without a graph, as one measures."""
    with torch.no_grad(), gl.ResponseStd(subject.model, exact=True) as probe:
        subject.model(**subject.batch)
    result = probe.result()
    frame = result.to_frame()
    frame = frame[~frame.layer.str.endswith("]")]
    wrong = _compare_sites(subject, frame, {site: std for site, (std, _) in subject.responses.items()}, "std")
    say([*_covered(subject, list(frame.layer), result), *wrong])


def check_response_gradients(subject: Subject) -> None:
    """The norm of each site's gradient, by torch.autograd.grad."""
    with gl.ResponseGradients(subject.model, blocks=lambda *_: True) as probe:
        subject.loss().backward()
        probe.step()
    subject.model.zero_grad()
    result = probe.result()
    frame = result.to_frame()
    frame = frame[~frame.layer.str.endswith("]") & ~frame.block]
    expected = {site: norm for site, (_, norm) in subject.responses.items()}
    wrong = _compare_sites(subject, frame, expected, "response_grad_norm")
    say([*_covered(subject, list(frame.layer), result), *wrong])


def _norm(gradients: dict[nn.Parameter, torch.Tensor]) -> float:
    return math.hypot(*(gradient.double().norm().item() for gradient in gradients.values()))


def check_examples(subject: Subject, own_backward: bool) -> None:
    """The norm of each example's gradient, by row and in total, and the norms of the batch's own."""
    model, rows = subject.model, rows_of(subject.model)
    model.zero_grad()
    with gl.ExampleGradients(model) as probe:
        loss = subject.loss()
        probe.backward(loss) if own_backward else loss.backward()
        probe.step()
    result, examples = probe.result(), probe.examples()
    frame = result.to_frame()
    wrong = compare_names([name for name in frame.layer if name != "total"], list(rows))
    norms = {name: part.sort_values("example").norm.tolist() for name, part in examples.groupby("layer")}
    for name, parts in rows.items():
        if name in norms:
            right = [norm_of(parts, g) or 0.0 for g in subject.example_gradients]
            if any(subject.differs(a, b) for a, b in zip(norms[name], right, strict=True)):
                wrong.append(f"norms of {name} are {norms[name]}, not {right}")
        elif norm_of(parts, subject.gradients):
            wrong.append(f"no norms of {name}")
    right = [_norm(g) for g in subject.example_gradients]
    if any(subject.differs(a, b) for a, b in zip(norms["total"], right, strict=True)):
        wrong.append(f"norms of the total are {norms['total']}, not {right}")
    for row in frame.itertuples():
        parts = rows.get(row.layer)
        expected = _norm(subject.gradients) if parts is None else norm_of(parts, subject.gradients)
        if (parts or row.layer == "total") and subject.differs(row.grad_norm, expected):
            wrong.append(f"grad_norm of {row.layer} is {row.grad_norm:.6g}, not {expected}")
    tolerance = subject.architecture.tolerance
    for parameter, name in subject.names.items():
        gradient = subject.gradients.get(parameter)
        if gradient is not None and not torch.allclose(parameter.grad, gradient, tolerance, tolerance * 1e-3):
            wrong.append(f"the gradient of {name} itself is not autograd's")
    counted = sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    wrong += compare_coverage(result, elements(rows), sum(p.numel() for p in model.parameters()), counted, counted)
    model.zero_grad()
    assert examples_of(subject.batch) == len(right)
    say(wrong)


CHECKS: dict[str, Callable[[Subject], None]] = {
    "ParameterGradients": lambda subject: check_parameters(subject, everything=False),
    "ParameterGradients-all": lambda subject: check_parameters(subject, everything=True),
    "ResponseStd": check_responses,
    "ResponseGradients": check_response_gradients,
    "ExampleGradients-loss.backward": lambda subject: check_examples(subject, own_backward=False),
    "ExampleGradients-probe.backward": lambda subject: check_examples(subject, own_backward=True),
}
