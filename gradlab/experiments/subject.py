"""The networks of a measurement: labels, facts for the record, and forward passes whose errors name the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gradlab.data.batching import Batches, batches
from gradlab.errors import GradlabError, NothingSeen, UsageError
from gradlab.experiments.request import BatchNormMode, NetworksRequest, Progress
from gradlab.experiments.spreading import spread, team
from gradlab.facts import input_shape_of, name_of, network_of, normalization_of
from gradlab.models import describe, fold_batch_norm, is_foldable
from gradlab.networks import build, split_spec
from gradlab.normalization import Normalization
from gradlab.probes.outputs import logits_of
from gradlab.results.result import Result

R = TypeVar("R", bound=Result)


def each_network(
    request: NetworksRequest,
    measure: Callable[[str, list[nn.Module], str | None], R],
    *,
    seeds: int = 1,
    progress: Progress | None = None,
) -> list[R]:
    """Build the networks of a measurement one after another, and measure each; one that is given twice, once.

    Where there are several, each note of a result names its network.

    Within `together`, networks are spread over the ranks if there are at least as many as ranks. Otherwise every rank
    builds all of them, and `measure` may spread its own work, such as that on several seeds.

    Args:
        request: The request of the measurement.
        measure: A function of the unique label of a network; of the network with its weights, or one network for each
            seed; and of the requested normalization, if any.
        seeds: The number of initializations to draw for a network that is requested at initialization.
        progress: A function called with the number of networks that all ranks have measured.

    Raises:
        UsageError: If a network is unknown, or the number of normalizations does not match.
        GradlabError: If weights cannot be read.
    """
    asked, present = [*dict.fromkeys(_asked_for(request))], team()
    apart = present is not None and len(asked) >= present.size
    taken: list[str] = []

    def measured(task: tuple[str | nn.Module, str | None]) -> tuple[str, R]:
        spec, normalize = task
        variants = _with_weights(spec, request.weights, range(request.seed, request.seed + seeds))
        label = label_of_all(variants)
        if not apart:
            taken.append(label := unique_label(label, taken))
        result = measure(label, variants, normalize)
        if len(asked) > 1:
            result.notes = naming(label, result)
        return label, result

    if not apart:
        return [result for _, result in map(measured, asked)]
    done = spread(asked, measured, cost=lambda task: expected_cost(task[0]), progress=progress, label="networks")
    labels = [label for label, _ in done]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError(f"{twice} is named twice, and ranks cannot number what others measure: name it once")
    return [result for _, result in done]


def naming(label: str, result: Result) -> list[str]:
    """The notes of one network's result, those of a probe on its layers after the label."""
    named = tuple(f"{name}{behind}" for name in (label, *result.networks) for behind in (": ", " "))
    return [note if note.startswith(named) else f"{label}: {note}" for note in result.notes]


def expected_cost(model: str | nn.Module) -> float:
    """How long a network takes compared with others: by its number of layers, as far as its name tells it."""
    if not isinstance(model, str):
        return float(sum(parameter.numel() for parameter in model.parameters()))
    try:
        return float(describe(split_spec(model)[0]).depth or 0)
    except GradlabError:
        return 0.0


def images_of(request: NetworksRequest, model: nn.Module, device: torch.device, normalize: str | None) -> Batches:
    """The data of a measurement, prepared for one of its networks."""
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
    """The mode of batch normalization; by default running statistics for trained weights, else those of each batch."""
    return asked or ("eval" if is_trained(model) else "batch")


def network_facts(model: nn.Module, label: str) -> dict[str, Any]:
    """The facts on a network for a record: the origin of its weights, as far as it is known."""
    network = network_of(model)
    if network is None:
        return {"network": label, "name": label, "weights_label": "–", "recipe": None}
    facts: dict[str, Any] = network.to_dict()
    facts.pop("label")
    if label == f"{network.name}@init":
        # There are several seeds, and this network has the first.
        facts["weights_label"] = "init"
    return {"network": label, **facts}


def is_trained(model: nn.Module) -> bool:
    """Whether a network's weights were trained, which is assumed of a module without this information."""
    network = network_of(model)
    return True if network is None else bool(network.trained)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a network contains batch normalization."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def label_of_all(variants: Sequence[nn.Module]) -> str:
    """The name of one network with the weights of one or several seeds, as `_with_weights` returns them."""
    model = variants[0]
    network = network_of(model)
    return name_of(model) if network is None or len(variants) == 1 else f"{network.name}@init"


def _with_weights(spec: str | nn.Module, weights: str | None, seeds: Sequence[int]) -> list[nn.Module]:
    """The network with its weights, or one network for each seed if it is requested at initialization."""
    if not isinstance(spec, str):
        return [spec]
    several = (split_spec(spec)[1] or weights) == "init"
    return [build(spec, weights, seed=seed) for seed in (seeds if several else seeds[:1])]


@contextmanager
def seen_by_probe(label: str, otherwise: str) -> Iterator[None]:
    """A context for the result of a probe around a network that has run.

    Args:
        label: The label of the network.
        otherwise: What the network is, if the probe has seen nothing of it, and what to do.

    Raises:
        NothingSeen: If the probe has seen nothing.
    """
    try:
        yield
    except NothingSeen:
        # What the probe advises is of use in a loop of one's own.
        raise NothingSeen(f"{label} {otherwise}") from None


def copy_of(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode, which leaves the model itself unchanged.

    Raises:
        GradlabError: If the model cannot be copied.
    """
    try:
        return copy.deepcopy(model).eval()
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise GradlabError(
            f"{name_of(model)} cannot be copied ({reason}): measure it in your own loop, with a probe such as "
            "gl.ResponseStd"
        ) from error


def runner(model: nn.Module, mode: BatchNormMode) -> nn.Module:
    """A copy of the model in the fastest layout without loss of accuracy.

    In gradlab's networks, batch normalization with running statistics is folded into the convolutions. Networks with
    batch statistics stay in the contiguous layout, since in channels_last torch sums in float32 on the CPU, with a
    relative error of 2e-6.
    """
    clone = copy_of(model)
    if mode == "batch":
        return clone.to(memory_format=torch.contiguous_format)
    if is_foldable(model):
        clone = fold_batch_norm(clone)
    return clone.to(memory_format=torch.channels_last)


def unique_label(label: str, taken: Sequence[str]) -> str:
    """The label, with a number if it is taken."""
    same = sum(other == label or other.startswith(f"{label} (") for other in taken)
    return label if not same else f"{label} ({same + 1})"


def _asked_for(request: NetworksRequest) -> list[tuple[str | nn.Module, str | None]]:
    """Each network of a measurement with its normalization: none, one for all networks, or one for each."""
    asked, normalize = request.listed_models(), request.normalize
    if normalize is None or isinstance(normalize, str):
        return [(model, normalize) for model in asked]
    specs = [Normalization(spec).spec for spec in normalize]
    if len(specs) not in (1, len(asked)):
        raise UsageError(
            f"give one normalization for all networks or one for each of the {len(asked)}; got {len(specs)}"
        )
    return list(zip(asked, specs * len(asked) if len(specs) == 1 else specs, strict=True))


def assumptions(model: nn.Module, label: str, stream: Batches, asked: str | None) -> list[str]:
    """Notes on assumptions: the data, the normalization of a trained network's images, and the key of its file.

    Args:
        model: The network.
        label: The label of the network.
        stream: Its data.
        asked: The requested normalization, if any.
    """
    network = network_of(model)
    notes = [f"{label}: {network.note}"] if network is not None and network.note else []
    notes += of_other_data(label, stream)
    guessed = asked is None and normalization_of(model) is None
    if not guessed or stream.normalization is None or not is_trained(model):
        return notes
    return [
        *notes,
        f"{label}: the normalization of its images in training is unknown; {stream.normalization} is assumed "
        "(--normalize sets another)",
    ]


def of_other_data(label: str, stream: Batches) -> list[str]:
    """A note on data other than that named, if the network has a default of its own."""
    if stream.instead_of is None:
        return []
    return [f"{label}: measured on {stream.dataset.name}, its data by default, and not on {stream.instead_of}"]


def of_incomplete_batch(label: str, images: int, measured: int) -> list[str]:
    """A note on the last images, if they are left out since only full batches are measured.

    Args:
        label: The label of the network.
        images: The number of images that were asked for.
        measured: The number of those in full batches.
    """
    left = images - measured
    if left == 1:
        return [f"{label}: the last image does not fill a batch and is left out"]
    return [f"{label}: the last {left} images do not fill a batch and are left out"] if left else []


def forward(model: nn.Module, label: str, images: Tensor) -> Tensor:
    """Run a network and return its output: the logits of an output with several parts, or an empty tensor without any.

    Raises:
        GradlabError: See `output_of`.
    """
    logits = logits_of(output_of(model, label, images))
    return torch.empty(0) if logits is None else logits


def output_of(model: nn.Module, label: str, images: Tensor) -> Any:
    """Run a network and return its output as it is.

    Raises:
        GradlabError: If the network cannot run on these images; the error names the network.
    """
    try:
        return model(images)
    except GradlabError:
        raise
    except Exception as error:  # a user's network may raise any exception
        wanted = input_shape_of(model)
        if wanted is not None and len(wanted) != images.ndim - 1:
            raise UsageError(
                f"{label} takes inputs of shape {wanted}, not images of shape {tuple(images.shape[1:])}: data "
                "noise (--data noise) has any"
            ) from error
        reason = str(error).split("\n")[0]
        advice = _other_data(wanted, images, reason)
        wide = "float64 " if images.dtype == torch.float64 else ""
        raise GradlabError(
            f"{label} cannot run on {wide}images of shape {tuple(images.shape)}: "
            f"{reason or type(error).__name__}{advice}"
        ) from error


def _other_data(wanted: tuple[int, ...] | None, images: Tensor, reason: str) -> str:
    """What to do where a network does not take images because of their size; empty where it fails otherwise."""
    sized = any(word in reason.lower() for word in ("size", "shape", "dimension", "height", "width"))
    if not sized or wanted == tuple(images.shape[1:]) or images.ndim != 4:
        return ""
    named = "with model.input_shape = (3, 224, 224), say," if wanted is None else f"it takes {wanted};"
    return f"; {named} data noise and imagefolder:PATH (--data) have that shape"
