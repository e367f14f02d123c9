"""Separation of one use of parameters into the gradients of single examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradlab.errors import GradlabError
from gradlab.probes.examples.layout import Layout
from gradlab.probes.examples.uses import Operand, Use
from gradlab.stats import ExampleContributions, RowGradients

_VALUES = 1 << 24
"""Number of gradient values that are copied for single examples at a time."""


def taken_apart(
    use: Use, output: GradientEdge, gradient: Tensor, layout: Layout, parameters: Sequence[Tensor]
) -> Iterator[tuple[int, ExampleContributions]]:
    """Compute the contributions of single examples to the gradient of each parameter in one use.

    Args:
        use: The use, with stand-ins if there is no rule for it.
        output: The output of the use, as an edge of the graph.
        gradient: The gradient of the output.
        layout: The layout of the examples in the output.
        parameters: The parameters in the order of their numbers.

    Yields:
        The number of a parameter and the contributions of the examples to its gradient.
    """
    if use.match is None:
        stand_ins = [operand.tensor if operand.stand_in is None else operand.stand_in for operand in use.operands]
        found: Sequence[ExampleContributions] = _by_copies(output, stand_ins, gradient, layout)
    else:
        made = use.match.make(use.match.given, gradient, layout) or {}
        by_tensor = {id(use.match.given.get(name)): contribution for name, contribution in made.items()}
        found = [by_tensor[id(operand.tensor)] for operand in use.operands]
    for operand, contribution in zip(use.operands, found, strict=True):
        yield from _pulled_back(operand, contribution, parameters)


def by_passes(
    outputs: Sequence[GradientEdge], gradient: Tensor, layout: Layout, parameters: Sequence[Tensor]
) -> list[RowGradients]:
    """Compute the gradients of single examples by one backward pass per example through the existing graph.

    Args:
        outputs: One output, or its edge of the graph.
        gradient: The gradient of the output.
        layout: The layout of the examples in the output.
        parameters: The parameters whose gradients are computed.

    Raises:
        GradlabError: If the gradients are too large to hold.
    """
    numel = sum(parameter.numel() for parameter in parameters)
    if numel * layout.examples > 1 << 29:
        raise GradlabError(
            f"the gradients of {layout.examples} examples with {numel:,} values each have to be held at once: measure "
            "smaller batches, or fewer layers with layers="
        )
    rows: list[list[Tensor]] = [[] for _ in parameters]
    for example in range(layout.examples):
        (alone,) = layout.only(gradient, range(example, example + 1))
        found = torch.autograd.grad(
            outputs,
            parameters,
            [alone],
            retain_graph=True,
            allow_unused=True,
        )
        for row, parameter, part in zip(rows, parameters, found, strict=True):
            value = torch.zeros_like(parameter) if part is None else part
            row.append((value.to_dense() if value.is_sparse else value).flatten())
    return [RowGradients(_wide(torch.stack(row).detach())) for row in rows]


def _by_copies(
    output: GradientEdge, stand_ins: Sequence[Tensor], gradient: Tensor, layout: Layout
) -> list[RowGradients]:
    """Compute gradients by one batched backward pass, in which each copy has all but one example set to 0."""
    if not _takes_batches(gradient):
        return by_passes([output], gradient, layout, stand_ins)
    size = max(1, _VALUES // max(1, gradient.numel()))
    parts: list[list[Tensor]] = [[] for _ in stand_ins]
    try:
        for start in range(0, layout.examples, size):
            alone = layout.only(gradient, range(start, min(start + size, layout.examples)))
            found = torch.autograd.grad(
                [output], stand_ins, alone, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
            for part, stand_in, value in zip(parts, stand_ins, found, strict=True):
                part.append(
                    alone.new_zeros(len(alone), stand_in.numel()) if value is None else value.reshape(len(alone), -1)
                )
    except RuntimeError:
        # Not every operation supports batched gradients.
        return by_passes([output], gradient, layout, stand_ins)
    return [RowGradients(_wide(torch.cat(part).detach())) for part in parts]


def _pulled_back(
    operand: Operand, contribution: ExampleContributions, parameters: Sequence[Tensor]
) -> Iterator[tuple[int, ExampleContributions]]:
    """Propagate contributions from a tensor computed from parameters to the parameters themselves."""
    if operand.tensor is parameters[operand.sources[0]]:
        yield operand.sources[0], contribution
        return
    wanted = [parameters[number] for number in operand.sources]
    if any(parameter._backward_hooks for parameter in wanted):
        raise GradlabError(
            "a parameter that a weight is computed from has a hook of its own, which would be called for each example: "
            "take it off while example gradients are measured"
        )
    rows = contribution.computed().rows().to(operand.tensor.dtype).view(-1, *operand.tensor.shape)
    for number, value in zip(operand.sources, _batched(operand.tensor, wanted, rows), strict=True):
        yield number, RowGradients(_wide(value.reshape(len(rows), parameters[number].numel())))


def _batched(output: Tensor, wanted: Sequence[Tensor], gradients: Tensor) -> list[Tensor]:
    """Compute the gradients of parameters for a batch of gradients of an output, along dimension 0."""
    if _takes_batches(gradients):
        try:
            found = torch.autograd.grad(
                output, wanted, gradients, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
            return [
                gradients.new_zeros(len(gradients), *parameter.shape) if value is None else value
                for parameter, value in zip(wanted, found, strict=True)
            ]
        except RuntimeError:
            # Not every operation supports batched gradients.
            pass
    each = [torch.autograd.grad(output, wanted, gradient, retain_graph=True) for gradient in gradients]
    return [torch.stack(part) for part in zip(*each, strict=True)]


def _takes_batches(gradient: Tensor) -> bool:
    """Return whether a backward pass on this device can be batched within another one.

    On torch's private device, a backend in Python is asked for its stream at the end of each operation, and a batched
    pass in the thread of the outer one ended the process there (torch 2.15).
    """
    return gradient.device.type != torch._C._get_privateuse1_backend_name()


def _wide(rows: Tensor) -> Tensor:
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
