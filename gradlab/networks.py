"""Networks with weights: the language `NAME[@WEIGHTS]`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from gradlab import hub
from gradlab.checkpoints import (
    Loaded,
    bare,
    load_weights,
    own_names,
    weights_digest,
)
from gradlab.checkpoints.wording import sentence, shown
from gradlab.errors import GradlabError, UsageError, one_line
from gradlab.facts import Network, remember
from gradlab.models import (
    Architecture,
    create,
    describe,
    infer_architectures,
    is_mlp,
    parse_mlp,
    parse_name,
)
from gradlab.models.detectors import DETECTORS
from gradlab.models.external import (
    check_external,
    file_options,
    is_external,
    is_function,
    load_external,
    split_package,
)
from gradlab.sources import Source, find_weights


def build(spec: str, weights: str | None = None, *, seed: int = 0, device: str = "cpu") -> nn.Module:
    """Build a network with its weights, in eval mode.

    The function sets `model.name` (the label), `model.normalization` (the normalization with which the weights were
    trained, if it is known), `model.input_shape` and `model.network` (a `Network`, with the origin of the weights), but
    none that a module of your own has under that name.

    Args:
        spec: The network as `NAME[@WEIGHTS]`. NAME is for example `resnet56`, `plain20`, `resnet56-B`,
            `resnet56-beta=0.1`, `resnet110-preact`, `plain56-ll`, `imagenet/resnet50`, `torchvision/NAME`, `timm/NAME`,
            `transformers/CONFIG.json` or `package.module:function`. WEIGHTS is `init` or `init:SEED`, `trained`, `hub`
            (`hub:ENUM` for torchvision), or the path of a checkpoint, with the key of one of its state dicts if it has
            several: `PATH:ema`, `PATH:state_dict.generator`.
        weights: The weights to use if `spec` names none; None means `trained`.
        seed: The seed for `init` without a seed.
        device: The device of the model.

    Raises:
        UsageError: If the network is unknown, it has no such weights, or the file contains another network.
        GradlabError: If weights cannot be read or downloaded.
    """
    try:
        return _build(spec, weights, seed).to(device)
    except GradlabError as error:
        raise type(error)(sentence(str(error))) from error.__cause__


def _build(spec: str, weights: str | None, seed: int) -> nn.Module:
    name, asked = split_spec(spec)
    asked = asked or weights or "trained"
    architecture = None if is_external(name) or is_mlp(name) else parse_name(name)
    if is_mlp(name):
        parse_mlp(name)
    check_external(name)
    source: Source | None = None
    loaded: Loaded | None = None
    kind, _, choice = asked.partition(":")
    package, own_name = split_package(name)
    if choice and (kind == "trained" or (kind == "hub" and package != "torchvision")):
        raise UsageError(f"{spec}: {kind} takes no {choice!r} after it")
    if name in DETECTORS and kind != "init":
        raise UsageError(f"{spec}: detectors are measured as initialized: give {name}@init")
    if kind == "init":
        seed = _seed(spec, choice, seed)
        asked = f"init:{seed}"
        model = create(name, seed=seed)
    elif kind == "trained" and is_function(name):
        model = create(name)
    elif kind == "hub" and package == "timm":
        model = hub.timm_pretrained(own_name)
    else:
        source = find_weights(name, architecture, asked, spec)
        loaded = _load(name, architecture, source)
        model = loaded.model
    _check_initialized(name, model)
    network = _describe(name, architecture, asked, model, source, loaded)
    remember(model, network)
    return model.eval()


def split_spec(spec: str) -> tuple[str, str]:
    """The name and the weights of `NAME[@WEIGHTS]`; the weights are empty if none are named."""
    name, _, weights = spec.partition("@")
    return name, weights


def network_name(spec: str) -> str:
    """The canonical name of a network that is requested without weights.

    Raises:
        UsageError: If the network is unknown or weights are given.
    """
    name, weights = split_spec(spec)
    if weights:
        raise UsageError(f"{spec}: a training begins at the network's initialization; give {name} and a seed")
    check_external(name)
    if is_external(name):
        return name
    return parse_mlp(name).name if is_mlp(name) else parse_name(name).name


def _describe(
    name: str,
    architecture: Architecture | None,
    asked: str,
    model: nn.Module,
    source: Source | None,
    loaded: Loaded | None,
) -> Network:
    kind = asked.partition(":")[0]
    initial = kind == "init"
    if source is not None:
        recipe, normalization = source.recipe, source.normalization
    elif initial:
        recipe, normalization = (
            "its own initialization" if architecture is None else architecture.initialization,
            None,
        )
    elif is_function(name):
        recipe, normalization = None, None
    else:
        recipe, normalization = asked, hub.timm_normalization(model)
    suffix = asked
    if source is not None and kind not in ("hub", "trained"):
        # A name may have line breaks, or bytes that are no text.
        suffix = one_line(source.path.name) + (f":{source.key}" if source.key else "")
    return Network(
        name=name,
        weights=asked,
        label=f"{name}@{'init' if asked == 'init:0' else suffix}",
        trained=not initial,
        recipe=recipe,
        normalization=normalization,
        digest=weights_digest(model),
        file_sha256=None if source is None else source.sha256,
        weights_key=None if loaded is None else loaded.key or None,
        classes=None if loaded is None else loaded.classes,
        note=None if loaded is None else loaded.note,
        description=describe(name) if architecture is None else architecture.description,
    )


def _seed(spec: str, text: str, seed: int) -> int:
    if text and not text.isdecimal():
        raise UsageError(f"{spec}: the seed in init:SEED is a whole number, not {text!r}")
    seed = int(text[:40]) if text else seed
    if not 0 <= seed < 2**63:
        raise UsageError(f"{spec}: a seed is from 0 to 2^63 − 1, not {seed}")
    return seed


def _load(name: str, architecture: Architecture | None, source: Source) -> Loaded:
    """The network with the weights of a file, built with as many classes as the file's classifier."""
    path = source.path
    if is_external(name):
        options = file_options(name, [key for item in source.found for key in item.state], source.published)
        create_one = partial(load_external, name, seed=0, **options)
        return load_weights(create_one, source.found, path, name, resizable=not is_function(name))
    if architecture is None:
        return load_weights(partial(create, name), source.found, path, name, resizable=False)
    theirs = any(".downsample." in key for item in source.found for key in item.state)
    if theirs and architecture.imagenet and architecture.depth >= 50:
        raise UsageError(
            f"{shown(path)} has torchvision's layout, whose bottlenecks have their stride in the 3×3 convolution: "
            f"measure it as torchvision/resnet{architecture.depth}@{shown(path)}"
        )
    explain = partial(_what_it_is, architecture)
    loaded = load_weights(architecture.create, source.found, path, name, names=own_names, explain=explain)
    # Keys and shapes do not distinguish a plain net from a residual one, or different values of β.
    if source.network is not None and source.network not in (architecture.name, architecture.former_name):
        raise UsageError(f"{shown(path)} holds {source.network}, as its record says, not {name}")
    return loaded


def _what_it_is(asked: Architecture, state: Mapping[str, Any], faults: str) -> str:
    """A description of a state dict that does not fit the requested network.

    Properties that the state dict does not show are taken from the name: scales, the order within most residual units,
    and whether a net without projections is plain.
    """
    found = infer_architectures(own_names(bare(state)))
    if not found:
        return f"is not a {asked.name}, and none of our networks: {faults}"
    if asked.shown in found:
        return f"does not fit {asked.name}: {faults}"
    return f"holds {' or '.join(architecture.name for architecture in found)}, not {asked.name}"


def _check_initialized(name: str, model: nn.Module) -> None:
    """Refuse a network whose layers get their shapes only from the first images."""
    for layer, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise UsageError(f"{name}: {layer} is not initialized before the first forward pass: run the model once")
