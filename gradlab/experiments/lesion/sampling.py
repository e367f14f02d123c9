"""Random examples on random paths of every length, for `gradlab lesion`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.data.batching import Batches
from gradlab.experiments.accuracy import cross_entropies
from gradlab.experiments.lesion.paths import PathGradients, random_paths
from gradlab.experiments.lesion.request import LesionRequest
from gradlab.experiments.lesion.structure import Structure
from gradlab.experiments.subject import forward
from gradlab.models.embedded import OfEmbeddings
from gradlab.transfer import uploaded


def sampled_paths(
    model: nn.Module, label: str, structure: Structure, stream: Batches, request: LesionRequest
) -> list[dict[str, Any]]:
    """Measure the gradient of random examples, each with one random path of every length.

    Args:
        model: A network in eval mode, whose parameters need no gradient.
        label: Its label.
        structure: Its residual modules.
        stream: The data, with labels.
        request: The number of examples and the seed.

    Returns:
        One row per path: length, sample (the number of the example) and gradient_norm.

    Raises:
        GradlabError: If a gradient flows around a module, or examples share paths.
    """
    modules, generator = len(structure.parts), torch.Generator().manual_seed(request.seed)
    drawn = torch.randint(stream.count, (request.paths,), generator=generator)
    embedded = OfEmbeddings(model) if stream.dataset.items == "tokens" else None
    names = [" ".join(filter(None, (part.block, part.branch))) for part in structure.parts]
    # For each length of each batch, the norms of the examples.
    norms: list[Tensor] = []
    with PathGradients(model, structure) as gradients:
        for images, labels in _examples(stream, drawn):
            inputs = images if embedded is None else embedded.embed(images)
            gradients.run(_loss(embedded or model, label, labels), inputs)
            if not norms:
                gradients.check_chain(names)
            for length in range(modules + 1):
                through = random_paths(torch.full((len(images),), length), modules, generator)
                norms.append(gradients.on_paths(uploaded(through, images.device)).flatten(1).norm(dim=1))
    return _rows(norms, modules + 1)


def _examples(stream: Batches, drawn: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The inputs and labels of drawn examples, in batches."""
    kept: list[tuple[Tensor, Tensor]] = []
    for place, (images, labels) in enumerate(stream):
        assert labels is not None
        own = drawn[drawn // stream.batch_size == place] % stream.batch_size
        chosen = uploaded(own, images.device)
        kept.append((images[chosen], labels[chosen]))
    inputs, answers = (torch.cat(parts) for parts in zip(*kept, strict=True))
    yield from zip(inputs.split(stream.batch_size), answers.split(stream.batch_size), strict=True)


def _loss(model: nn.Module, label: str, labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda inputs: cross_entropies(forward(model, label, inputs), labels)


def _rows(norms: Sequence[Tensor], lengths: int) -> list[dict[str, Any]]:
    """One row per norm: those of the first batch on paths of each length, then those of the next batch."""
    values, first, rows = iter(torch.cat([*norms]).tolist()), 0, []
    for place, each in enumerate(norms):
        length = place % lengths
        rows += [
            {"length": length, "sample": first + example, "gradient_norm": next(values)} for example in range(len(each))
        ]
        first += len(each) if length == lengths - 1 else 0
    return rows
