"""Autocorrelation of the gradient of a user's function along a line of inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.device import device_name
from gradlab.experiments.shatter.rows import acf_rows, signal_rows
from gradlab.experiments.shatter.shatter import noise_acfs
from gradlab.facts import name_of
from gradlab.results.record import Stopwatch, make_record
from gradlab.results.shatter.result import ShatterResult

UNEVEN = 0.05
"""The share by which steps between inputs of several dimensions may differ from their mean."""

Function = Callable[[Tensor], Tensor]


def shattering(
    f: Function | Sequence[Function], x: Tensor, *, lags: int = 20, name: str | None = None
) -> ShatterResult:
    """Measure the autocorrelation of df/dx along a line of inputs, for any differentiable function or module.

    The gradient is that of the sum of all outputs. If f treats its inputs independently, like a network in eval mode,
    it is df(x_i)/dx_i; if f couples them, like batch normalization in train mode, the gradient passes through the
    statistics (`full`). Several functions, such as one network with several seeds, give an error bar. The gradients of
    parameters do not change.

    Args:
        f: A function or several, from inputs to one number per input, (M,) or (M, 1). It is called once with all of x,
            as a column (M, 1) if x is (M,) and f is a module.
        x: The inputs, (M,) in ascending or descending order, or (M, ...) for evenly spaced points on a line in more
            dimensions; the gradient is then taken along the line. They are moved to the device and dtype of a module's
            parameters.
        lags: The largest lag, below M.
        name: The name in the result; by default that of the function or class.

    Returns:
        A result with depth 0, since the depth of a function is not known.

    Raises:
        UsageError: If inputs or lags are invalid, or a function does not return one number per input.
        GradlabError: If a gradient is not finite, or there is none.
    """
    stopwatch = Stopwatch()
    functions = [f] if callable(f) else list(f)
    if not functions:
        raise UsageError("give at least one function")
    points = x.shape[0] if x.ndim else 0
    if points < 3 or not 0 <= lags < points:
        raise UsageError(
            f"{points} points have the lags 0 to {max(0, points - 1)}, not {lags}; 3 points are the fewest"
        )
    _require_line(x.detach())
    label = name or str(getattr(functions[0], "__name__", None) or name_of(functions[0]))
    gradients = torch.stack([_gradient(function, x.detach(), label) for function in functions])
    key: dict[str, Any] = {"network": label, "norm": "", "depth": 0}
    line = x.detach().double().cpu()
    result = ShatterResult(
        pd.DataFrame(acf_rows(gradients, lags, None, **key)),
        notes=["One function: there is no error bar."] if len(functions) == 1 else [],
        summary_frame=pd.DataFrame(signal_rows(gradients, None, **key)),
        gradients={(label, 0): gradients.numpy()},
        x=line.numpy() if line.ndim == 1 else torch.linspace(0, 1, points, dtype=torch.float64).numpy(),
    )
    options = {"lags": lags, "points": points, "functions": len(functions)}
    result.record = make_record(
        "shattering", options=options, device=device_name(x.device), stopwatch=stopwatch, noise=noise_acfs(points, lags)
    )
    return result


def _require_line(x: Tensor) -> None:
    """Check that inputs go one way, and in several dimensions by equal steps; a lag means nothing otherwise."""
    inputs = x.double().cpu().reshape(len(x), -1)
    steps = inputs.diff(dim=0)
    if x.ndim == 1:
        if (steps < 0).any() and (steps > 0).any():
            raise UsageError("x goes back and forth: sort the inputs, since the lag is a distance along them")
        return
    step = steps.mean(0)
    rounding = (torch.finfo(x.dtype).eps if x.is_floating_point() else 1.0) * inputs.norm(dim=1).max()
    if ((steps - step).norm(dim=1) > UNEVEN * step.norm() + 2 * rounding).any():
        raise UsageError(
            f"x is {tuple(x.shape)}, but its points are not evenly spaced on a line, along which the gradient is taken"
        )


def _gradient(f: Function, x: Tensor, label: str) -> Tensor:
    """The gradient along the line, (M,), float64 on the CPU."""
    inputs = x
    if isinstance(f, nn.Module):
        parameter = next(f.parameters(), None)
        inputs = x if parameter is None else x.to(parameter.device, parameter.dtype)
        inputs = inputs[:, None] if x.ndim == 1 else inputs
    inputs = (inputs if inputs.is_floating_point() else inputs.float()).clone().requires_grad_()
    with torch.enable_grad():
        outputs = f(inputs)
    if not isinstance(outputs, Tensor) or outputs.numel() != len(x):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UsageError(
            f"{label} returns {got} for {len(x)} inputs: it must return one number each; take one output, or a sum"
        )
    _require_finite(outputs.reshape(-1), x, label, "value")
    if not outputs.requires_grad:
        raise GradlabError(f"{label}: the output does not depend on the input by differentiable operations")
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs, allow_unused=True)
    if gradient is None:
        raise GradlabError(f"{label}: the output does not depend on the input")
    gradient = gradient.double().cpu().reshape(len(x), -1)
    if x.ndim > 1:
        direction = (x[-1] - x[0]).double().cpu().reshape(-1)
        gradient = gradient @ (direction / direction.norm())
    _require_finite(gradient.reshape(-1), x, label, "gradient")
    return gradient.reshape(-1)


def _require_finite(values: Tensor, x: Tensor, label: str, what: str) -> None:
    wrong = (~values.detach().isfinite()).nonzero().flatten().tolist()
    if wrong:
        where = f"x[{wrong[0]}]" + (f" = {x[wrong[0]].item():.6g}" if x.ndim == 1 else "")
        more = f", and at {len(wrong) - 1} more inputs" if len(wrong) > 1 else ""
        raise GradlabError(f"{label}: the {what} at {where} is {values[wrong[0]].item()}{more}")
