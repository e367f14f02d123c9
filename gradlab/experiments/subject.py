"""The networks of a measurement: labels, facts for the record, and a forward pass whose errors name them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.data.batching import Batches, batches
from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.request import BatchNormMode, NetworksRequest
from gradlab.models import fold_batch_norm, is_foldable
from gradlab.networks import build, split_spec
from gradlab.normalization import Normalization
from gradlab.probes.outputs import logits_of


def networks(request: NetworksRequest, seeds: int = 1) -> Iterator[tuple[str, list[nn.Module], str | None]]:
    """Build the networks of a measurement one after another.

    Args:
        request: What is asked for.
        seeds: How many weights to draw of a network that is asked for as initialized.

    Yields:
        The network's label, which no other has; the network with its weights, or with those of every seed; and the
        normalization that was asked for, if any.

    Raises:
        UsageError: For an unknown network, or a number of normalizations that does not fit.
        GradlabError: When weights cannot be read.
    """
    taken: list[str] = []
    for spec, normalize in _asked_for(request):
        variants = _with_weights(spec, request.weights, range(request.seed, request.seed + seeds))
        taken.append(unique_label(label_of_all(variants), taken))
        yield taken[-1], variants, normalize


def images_of(request: NetworksRequest, model: nn.Module, device: torch.device, normalize: str | None) -> Batches:
    """The data of a measurement as one of its networks takes it."""
    return batches(
        request.data,
        request.batch_size,
        model,
        device=device,
        images=request.images,
        normalize=normalize,
        seed=request.seed,
    )


def batch_norm_mode(asked: BatchNormMode | None, model: nn.Module) -> BatchNormMode:
    """Whose statistics normalize in a network: by default the running ones where its weights were trained."""
    return asked or ("eval" if is_trained(model) else "batch")


def network_facts(model: nn.Module, label: str) -> dict[str, Any]:
    """What a record says of a network: where its weights come from, as far as that is known."""
    network = getattr(model, "network", None)
    if network is None:
        return {"network": label, "name": label, "weights_label": "–", "recipe": None}
    facts: dict[str, Any] = network.to_dict()
    facts.pop("label")
    if label == f"{network.name}@init":
        # Of several seeds, of which this is the first.
        facts["weights_label"] = "init"
    return {"network": label, **facts}


def is_trained(model: nn.Module) -> bool:
    """Whether a network's weights were trained; a module that does not say is taken to be."""
    network = getattr(model, "network", None)
    return True if network is None else bool(network.trained)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether there is batch normalization in a network."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def label_of(model: nn.Module) -> str:
    """A network's name from `gl.build`, else its class."""
    return str(getattr(model, "name", type(model).__name__))


def label_of_all(variants: Sequence[nn.Module]) -> str:
    """The name of one network with several weights: those of every seed, as `with_weights` gives them."""
    model = variants[0]
    return label_of(model) if len(variants) == 1 else f"{model.network.name}@init"  # type: ignore[union-attr]


def _with_weights(spec: str | nn.Module, weights: str | None, seeds: Sequence[int]) -> list[nn.Module]:
    """The network with its weights; with those of every seed where it is asked for as initialized."""
    if not isinstance(spec, str):
        return [spec]
    several = (split_spec(spec)[1] or weights) == "init"
    return [build(spec, weights, seed=seed) for seed in (seeds if several else seeds[:1])]


def copy_of(model: nn.Module) -> nn.Module:
    """A copy to run, in eval mode; the model itself stays as it is.

    Raises:
        GradlabError: When it cannot be copied.
    """
    try:
        return copy.deepcopy(model).eval()
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise GradlabError(
            f"{label_of(model)} cannot be copied ({reason}): measure it in your own loop, with a probe such as "
            "gl.ResponseStd"
        ) from error


def runner(model: nn.Module, mode: BatchNormMode) -> nn.Module:
    """A copy to run, in the layout that is fastest without loss.

    What is ours has batch normalization folded away where only its value counts. Batch statistics stay in
    the contiguous layout: in channels_last torch sums them in float32 on the CPU, off by 2e-6.
    """
    clone = copy_of(model)
    if mode == "batch":
        return clone.to(memory_format=torch.contiguous_format)
    if is_foldable(model):
        clone = fold_batch_norm(clone)
    return clone.to(memory_format=torch.channels_last)


def unique_label(label: str, taken: Sequence[str]) -> str:
    """The label, numbered where it is taken."""
    return label if label not in taken else f"{label} ({sum(t.startswith(label) for t in taken) + 1})"


def _asked_for(request: NetworksRequest) -> list[tuple[str | nn.Module, str | None]]:
    """Each network of a measurement with its normalization: none, one for all, or one each."""
    asked, normalize = request.listed_models(), request.normalize
    if normalize is None or isinstance(normalize, str):
        return [(model, normalize) for model in asked]
    specs = [Normalization(spec).spec for spec in normalize]
    if len(specs) not in (1, len(asked)):
        raise UsageError(
            f"give one normalization for all networks or one for each of the {len(asked)}; got {len(specs)}"
        )
    return list(zip(asked, specs * len(asked) if len(specs) == 1 else specs, strict=True))


def assumptions(model: nn.Module, label: str, used: str | None, asked: str | None) -> list[str]:
    """Sentences on what was taken for granted: the normalization of a trained network's images, and its file's key.

    Args:
        model: The network.
        label: What to call it.
        used: The normalization that its images get; None for data that needs none.
        asked: The normalization that was asked for, if any.
    """
    choice = getattr(getattr(model, "network", None), "note", None)
    notes = [f"{label}: {choice}"] if choice else []
    guessed = asked is None and getattr(model, "normalization", None) is None
    if not guessed or used is None or not is_trained(model):
        return notes
    return [
        *notes,
        f"{label}: nothing says how its images were normalized in training; {used} is assumed "
        "(--normalize says otherwise)",
    ]


def forward(model: nn.Module, label: str, images: Tensor) -> Tensor:
    """Run a network; of an output of several parts the logits, and without them nothing, an empty tensor.

    Raises:
        GradlabError: When it cannot run on these images; it names the network.
    """
    try:
        output = model(images)
    except GradlabError:
        raise
    except Exception as error:  # a network of the user's may raise anything
        wanted = getattr(model, "input_shape", None)
        if wanted is not None and len(wanted) != images.ndim - 1:
            raise UsageError(
                f"{label} takes inputs of shape {tuple(wanted)}, not images of shape {tuple(images.shape[1:])}: data "
                "noise (--data noise) has any"
            ) from error
        reason = str(error).split("\n")[0]
        raise GradlabError(
            f"{label} cannot run on images of shape {tuple(images.shape)}: {reason or type(error).__name__}"
        ) from error
    logits = logits_of(output)
    return torch.empty(0) if logits is None else logits
