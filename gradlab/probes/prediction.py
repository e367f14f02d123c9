"""Prediction of the std of batch-normalized responses from a model's parameters and running statistics."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradlab.errors import GradlabError
from gradlab.facts import input_shape_of
from gradlab.models import meta_copy
from gradlab.models.cifar import CifarNet
from gradlab.models.imagenet import ImageNetNet
from gradlab.probes.finder import Part, ResponseFinder, Site
from gradlab.probes.hooks import unwrap
from gradlab.probes.selection import Selection, paper_layers
from gradlab.probes.targets import response_targets
from gradlab.theory import normalized_response_std


def batch_norm_stds(norms: Sequence[nn.Module]) -> list[float]:
    """Predict the std of the output of normalizations, in one transfer; NaN for those without running statistics.

    If parameters are sharded over ranks (`shard_holders`), all of these have to make this call.
    """
    predicted: dict[int, Tensor] = {}
    for place, norm in enumerate(norms):
        if isinstance(norm, _BatchNorm) and norm.running_var is not None:
            weight, bias = (
                value.full_tensor() if hasattr(value, "full_tensor") else value for value in (norm.weight, norm.bias)
            )
            predicted[place] = normalized_response_std(norm.running_var, weight, bias, norm.eps)
    device = next((value.device for value in predicted.values()), None)
    values = torch.stack([value.to(device) for value in predicted.values()]).tolist() if predicted else []
    found = dict(zip(predicted, values, strict=True))
    return [found.get(place, math.nan) for place in range(len(norms))]


def shard_holders(module: nn.Module) -> set[int]:
    """Return the numbers of the ranks that have parts of a module's parameters, as with `fully_shard`."""
    parameters: Any = module.parameters()
    meshes = [parameter.device_mesh.mesh for parameter in parameters if hasattr(parameter, "full_tensor")]
    return {int(rank) for mesh in meshes for rank in mesh.flatten()}


def predicted_response_std(
    model: nn.Module, layers: Selection = None, input_shape: tuple[int, ...] | None = None
) -> dict[str, float]:
    """Predict the response std of every layer that batch normalization follows, without any data.

    The prediction is √(mean_c γ_c²·v_c/(v_c + ε) + Var_c β_c), where v_c is the running variance: see
    `gradlab.theory.normalized_response_std`. The normalization that follows each layer is found by running a copy of
    the model on the meta device.

    Args:
        model: Any `torch.nn.Module`; it is neither run nor changed.
        layers: The layers, as for `ResponseStd`, except that None selects the convolutions of a convolutional network
            without the projections of shortcuts, and every layer of any other network.
        input_shape: The shape of one input without the batch dimension; by default the model's own `input_shape`,
            which `gl.build` sets, otherwise the first of (3, 224, 224) and (3, 32, 32) that the model accepts.

    Returns:
        The predicted std by layer name, in order of execution; NaN where no batch normalization follows.

    Raises:
        GradlabError: If the model cannot be run on the meta device.
    """
    model = unwrap(model)
    layers = paper_layers(model) if layers is None else layers
    shape = input_shape or input_shape_of(model)
    # If no shape is given, the two usual sizes of images are tried.
    for size in (shape,) if shape else ((3, 224, 224), (3, 32, 32)):
        try:
            order, norms = _trace(model, layers, size)
            break
        except GradlabError:
            raise
        except Exception as error:  # a user's network may raise anything
            failure = error
    else:
        raise GradlabError(
            f"{type(model).__name__} cannot be traced without values on inputs of shape {tuple(size)}: {failure}; "
            "input_shape says what it takes"
        ) from failure
    found = dict(zip(norms, batch_norm_stds([model.get_submodule(norm) for norm in norms.values()]), strict=True))
    return {layer: found.get(layer, math.nan) for layer in order}


def _trace(model: nn.Module, layers: Selection, shape: tuple[int, ...]) -> tuple[list[str], dict[str, str]]:
    """Return the layers in order of execution, and the names of the normalizations that follow them, by layer."""
    # Our own networks run on no inputs at all, which computes nothing and takes a third of the time.
    device, batch = ("cpu", 0) if isinstance(model, CifarNet | ImageNetNet) else ("meta", 1)
    clone, order = meta_copy(model, device), _Order()
    targets = response_targets(clone, layers)
    finder = ResponseFinder(clone, targets, order)
    with ExitStack() as stack, torch.no_grad():
        finder.attach(stack)
        clone(torch.empty(batch, *shape, device=device))
    seen = [layer for layer in order.layers if layer in targets.chosen]
    return seen, {site.layer: norm for site, norm in finder.norms.items() if site.call == 1 and norm}


class _Order:
    """Records which layers run, in order."""

    def __init__(self) -> None:
        self.layers: dict[str, None] = {}

    def observe(self, site: Site, response: Tensor, part: Part | None) -> None:
        """See `Observer`."""
        self.layers.setdefault(site.layer)

    def discard(self, site: Site, observation: object) -> None:
        """See `Observer`."""

    def finish(self, whole: bool) -> None:
        """See `Observer`."""
