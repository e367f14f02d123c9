"""Measure the singular values of the Jacobians of named networks, for `gradlab jacobian`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.jacobian.request import JacobianRequest
from gradlab.experiments.jacobian.theory import law_of
from gradlab.experiments.request import BatchNormMode, Progress
from gradlab.experiments.spreading import spread
from gradlab.experiments.subject import (
    assumptions,
    copy_of,
    each_network,
    forward,
    images_of,
    network_facts,
    output_of,
)
from gradlab.models.embedded import OfEmbeddings
from gradlab.probes.coverage import coverage_of_modules
from gradlab.results.jacobian.result import JacobianResult
from gradlab.results.record import Stopwatch, make_record
from gradlab.stats.float32 import full_float32
from gradlab.stats.jacobian import lanczos_coefficients, spectrum_of
from gradlab.transfer import placed


@full_float32()
def jacobian(
    models: Sequence[str | nn.Module] | str | nn.Module,
    data: str = "cifar10-sample",
    *,
    weights: str | None = None,
    images: int | None = 2,
    batch_size: int = 100,
    device: str = "auto",
    seed: int = 0,
    seeds: int = 3,
    bn: BatchNormMode | None = None,
    normalize: str | Sequence[str] | None = None,
    part: str | None = None,
    probes: int = 2,
    steps: int = 80,
    progress: Progress | None = None,
) -> JacobianResult:
    """Measure the singular values of the Jacobian of single examples (Pennington et al. 2017; arXiv:1711.04735).

    The Jacobian J is that of all outputs of a network, or of one of its modules, with respect to its input, in eval
    mode and in float64. It is not formed: its mean squared singular value tr(J·Jᵀ) / outputs and the distribution of
    its singular values come from products with random vectors (see `gradlab.stats.jacobian.jacobian_spectrum_of`).

    Args:
        models: The networks, as specifications for `gl.build` or as modules.
        data: A named data set (see `gl.batches`).
        weights: The weights of networks whose specifications name none.
        images: The number of examples to take from the beginning of the data set, each one alone; None takes all.
        batch_size: The number of examples to read at a time.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        seed: The first seed of initial weights, and the seed of noise and random vectors.
        seeds: The number of initializations to measure of a network given as `NAME@init`; all others are measured once.
        bn: The statistics for batch normalization: only `eval`, since statistics of a batch would couple its examples.
        normalize: The normalization of the images, one for all networks or one for each; by default the normalization
            with which each network was trained, or else that of the data set.
        part: The name of a module whose outputs are differentiated by its first input; None for the network. The input
            of a network of tokens is their embeddings.
        probes: The number of random vectors per example.
        steps: The number of Lanczos steps per vector.
        progress: A function called after every example.

    Raises:
        UsageError: If the arguments are invalid or inconsistent.
        GradlabError: If something cannot be read or run.
    """
    stopwatch, request = Stopwatch(), JacobianRequest.of(locals())
    if bn == "batch":
        raise UsageError(
            "statistics of a batch couple its examples, so that none has a Jacobian of its own: bn is eval"
        )
    where = pick_device(device)

    def measure(label: str, variants: Sequence[nn.Module], normalization: str | None) -> JacobianResult:
        stream = images_of(request, variants[0], where, normalization)

        def measure_one(place: int) -> list[dict[str, Any]]:
            clone = placed(copy_of(variants[place]), stream.device, torch.float64)
            found: list[tuple[Tensor, dict[str, Any]]] = []
            for example, (function, x) in enumerate(_examples(clone, label, stream, part)):
                with _differentiated(label):
                    ran, outputs = lanczos_coefficients(function, x, probes=probes, steps=steps, seed=seed + example)
                facts = {"seed": seed + place if len(variants) > 1 else None, "example": example}
                found.append((ran, facts | {"outputs": outputs, "inputs": x.numel()}))
                if progress is not None:
                    progress(label, place * stream.count + example + 1, len(variants) * stream.count)
            return _rows(label, found)

        parts = spread(range(len(variants)), measure_one, progress=progress, label=f"{label}, seeds")
        facts = network_facts(variants[0], label) | {
            "data": stream.dataset.name,
            "images": stream.count,
            "normalization": None if stream.normalization is None else str(stream.normalization),
            "part": part,
            "law": law_of(variants[0], part),
            "coverage": coverage_of_modules(variants[0], [part or ""], f"outside of {part}").as_record(),
        }
        notes = assumptions(variants[0], label, stream, normalization)
        return JacobianResult.from_rows(label, [row for part in parts for row in part], notes, facts)

    result = JacobianResult.concat(each_network(request, measure, seeds=seeds, progress=progress))
    result.frame["seed"] = result.frame["seed"].astype("Int64")
    result.record = make_record(
        "jacobian", options=request.options(), device=device_name(where), stopwatch=stopwatch, **result.record
    )
    return result


@contextmanager
def _differentiated(label: str) -> Iterator[None]:
    """A context of derivatives, whose errors of autograd name the network.

    Raises:
        GradlabError: If the output does not depend on the input, a function in between has no second derivative, or
            there is too little memory.
    """
    try:
        yield
    except GradlabError:
        raise
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise GradlabError(
            f"{label}: its Jacobian cannot be computed, since the output cannot be differentiated twice by the input: "
            f"{reason}"
        ) from error


def _rows(label: str, found: list[tuple[Tensor, dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per node of the quadrature, from the coefficients of all examples, which are read in one transfer."""
    there = torch.cat([coefficients.flatten() for coefficients, _ in found]).cpu()
    if not there.isfinite().all():
        raise GradlabError(
            f"{label} has a Jacobian with NaN or infinite values at one of the {len(found)} examples, and so no "
            "singular values: gl.find_nonfinite names the operation that makes them"
        )
    parts = there.split([coefficients.numel() for coefficients, _ in found])
    rows: list[dict[str, Any]] = []
    for part, (coefficients, facts) in zip(parts, found, strict=True):
        spectrum = spectrum_of(part.view_as(coefficients))
        for probe, nodes in enumerate(zip(spectrum.squares.tolist(), spectrum.weights.tolist(), strict=True)):
            for square, weight in zip(*nodes, strict=True):
                rows.append({**facts, "probe": probe, "singular_value": square**0.5, "weight": weight})
    return rows


def _examples(
    model: nn.Module, label: str, stream: Any, part: str | None
) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """The function and the input of each example: of the network, or of the part as the network calls it."""
    modules = dict(model.named_modules())
    if part is not None and part not in modules:
        raise UsageError(f"{label} has no module {part!r}: it has {', '.join([*modules][1:7])}, …")
    module = modules[part or ""]
    for images, _ in stream:
        for image in images:
            given = image[None].double() if image.is_floating_point() else image[None]
            x = given if part is None else _input_of(module, model, label, part, given)
            function = module
            if not x.is_floating_point():
                function = OfEmbeddings(module)
                x = function.embed(x)
            yield partial(_applied, function, label), x


def _input_of(module: nn.Module, model: nn.Module, label: str, part: str, given: Tensor) -> Tensor:
    """The first input of a module when the network runs on an example."""
    found: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: found.extend(args[:1]))
    with handle, torch.no_grad():
        forward(model, label, given)
    if not found:
        raise GradlabError(f"{label} does not call its module {part} with an input of its own: name another part")
    return found[0]


def _applied(function: nn.Module, label: str, x: Tensor) -> Tensor:
    output = output_of(function, label, x)
    if not isinstance(output, Tensor):
        raise GradlabError(f"{label} returns {type(output).__name__} and no tensor: name a part that does (--part)")
    return output
