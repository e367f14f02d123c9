"""The reasons why operations return non-finite values, in words."""

from __future__ import annotations

import math

import torch

from gradlab.probes.nonfinite.tracing import Fault
from gradlab.probes.nonfinite.values import Operation, Value

_OF_0 = {
    "log": "the logarithm of 0",
    "log2": "the logarithm of 0",
    "log10": "the logarithm of 0",
    "log1p": "the logarithm of 1 + x at x = −1",
    "rsqrt": "1/√0",
    "reciprocal": "division by 0",
    "atanh": "atanh at ±1",
    "logit": "the logit of 0 or 1",
    "digamma": "digamma at a pole",
    "lgamma": "lgamma at a pole",
    "log_sigmoid": "the logarithm of 0",
}
"""Causes of an infinity from finite numbers without overflow."""

_OF_NO_VALUE = {
    **dict.fromkeys(("log", "log2", "log10"), "the logarithm of a negative number"),
    "log1p": "the logarithm of a negative number",
    "sqrt": "the root of a negative number",
    "rsqrt": "the root of a negative number",
    "pow": "a negative number to a power that is no whole number",
    **dict.fromkeys(("asin", "acos"), "an argument outside of [−1, 1]"),
    **dict.fromkeys(("atanh", "logit"), "an argument outside of its range"),
    "acosh": "an argument below 1",
    "div": "0/0",
    "nll_loss": "0/0: the mean of no targets at all, or of targets whose weights are 0",
    "mean": "0/0: the mean of no elements",
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), "0/0: the variance of a single element"),
    **dict.fromkeys(("remainder", "fmod"), "division by 0"),
}
"""Causes of NaN from finite numbers."""

_NORMALIZATIONS = {"layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm"}
_STEEP = {"sqrt", "pow", "norm", "std", "acos", "asin", "acosh", "atanh", "log", "rsqrt"}
"""Operations with points at which the derivative is not finite."""

_DIVIDING = {"div", "reciprocal", "pow", "addcdiv"}
_SOFTMAX = {"softmax", "log_softmax", "logsumexp", "scaled_dot_product_attention"}


def reason(fault: Fault) -> str:
    """The reason why the operation of a fault returned it for inputs that were finite or masked."""
    operation, value = fault.operation, fault.value
    assert operation is not None
    if value.maker is None:
        return "memory is read that was never written to"
    if fault.masked:
        rows = "every entry of a row is −inf, so that it divides 0 by 0"
        return rows if operation.name in _SOFTMAX else "it computes with the infinities of a mask"
    if operation.constant:
        return f"{value.shows} is put in as a number, and nothing takes it out again"
    if operation.stage != "forward":
        return _of_backward(operation, value)
    return _of_forward(operation, value)


def _of_forward(operation: Operation, value: Value) -> str:
    name = operation.name
    if name in _NORMALIZATIONS:
        return _of_normalization(operation, value)
    if operation.zero is not None and bool(operation.zero) and name != "pow":
        return "0/0" if value.has_nan and name == "div" else "division by 0"
    if name == "pow" and not value.has_nan and bool(operation.zero):
        return "0 to a negative power"
    if value.has_nan:
        return overflow(value) if name == "div" else _OF_NO_VALUE.get(name) or _by_size(operation, value)
    if name == "conversion" and operation.inputs:
        return f"a value of {_magnitude(operation):.3g} is too large for {_type(value)}"
    return _OF_0.get(name, overflow(value))


def _of_normalization(operation: Operation, value: Value) -> str:
    signal = operation.inputs[0]
    if signal.smallest == signal.largest:
        return "0/0: its input has variance 0, and eps is 0 in its precision"
    size = max(abs(signal.smallest), abs(signal.largest))
    # A power of a Python number raises an error where a product is infinite.
    if size * size > torch.finfo(value.dtype).max:
        return f"{overflow(value)}: the squares of its input"
    return "division by a variance that is 0 for some of its input, eps being 0 in its precision"


def _of_backward(operation: Operation, value: Value) -> str:
    function = operation.function
    divides_by_0 = function in _DIVIDING and operation.zero is not None and bool(operation.zero)
    if operation.name in _STEEP and (divides_by_0 or function == "rsqrt"):
        return "its derivative is infinite there" + (", and 0 · ∞ is NaN" if value.has_nan else "")
    if divides_by_0:
        return "0/0" if value.has_nan else "division by 0"
    if value.has_nan:
        return _OF_NO_VALUE.get(function) or _by_size(operation, value)
    return _OF_0.get(function, overflow(value))


def _by_size(operation: Operation, value: Value) -> str:
    """The reason for NaN from an operation without known singularities: overflow, or 0/0 within it."""
    sizes = [max(abs(given.smallest), abs(given.largest), 1.0) for given in operation.inputs]
    size = max(sizes, default=1.0)
    largest = max(operation.count, 1) * max(math.prod(sizes), size * size)
    if largest > torch.finfo(value.dtype).max:
        return overflow(value)
    return "its numbers are finite, and of a size that does not overflow: 0/0 within it"


def overflow(value: Value) -> str:
    """The reason that a value exceeds the largest number of its dtype."""
    name, largest = _type(value), torch.finfo(value.dtype).max
    return f"overflow of {name}, whose largest number is {largest:.3g}"


def _type(value: Value) -> str:
    return str(value.dtype).removeprefix("torch.")


def _magnitude(operation: Operation) -> float:
    return max(max(abs(given.smallest), abs(given.largest)) for given in operation.inputs)
