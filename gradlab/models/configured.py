"""Networks of the transformers library from a configuration file, without their published weights."""

from __future__ import annotations

import json
import os
from typing import Any, cast

from torch import nn

from gradlab.errors import GradlabError, UsageError

TOKENS = 128
"""The tokens of a sequence, where the network takes as many."""


def from_configuration(name: str, path: str, classes: int | None = None) -> nn.Module:
    """Build the network of a configuration file, `config.json` as the library saves it.

    It is of the class that the file names first in `architectures`, which has a head, or the library's bare model of
    that type. No code that a file points to is run, and nothing is downloaded.

    Args:
        name: The name that was asked for, for errors.
        path: The path of the file.
        classes: The number of outputs of the classifier, or of tokens; None keeps the file's own.

    Raises:
        UsageError: If there is no such file, or the library is not installed.
        GradlabError: If the file is no configuration of a network of the library.
    """
    content = _read(name, path)
    try:
        import transformers
    except ModuleNotFoundError:
        raise UsageError(f"{name} needs transformers: pip install 'gradlab-torch[transformers]'") from None
    kind = content.pop("model_type", None)
    if kind not in transformers.CONFIG_MAPPING:
        raise GradlabError(f"{name}: the installed transformers has no networks of model_type {str(kind)[:60]!r}")
    # Caches of keys and values would be kept along with the logits.
    content |= {"use_cache": False} | ({} if classes is None else {"num_labels": classes, "vocab_size": classes})
    asked = (content.get("architectures") or [None])[0]
    try:
        configuration = transformers.CONFIG_MAPPING[kind](**content)
        model_class = getattr(transformers, str(asked), None)
        if isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel):
            model = model_class(configuration)
        else:
            model = transformers.AutoModel.from_config(configuration)
    except Exception as error:  # the library raises anything for values that do not go together
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise GradlabError(f"{name}: transformers cannot build it: {reason}") from None
    _say_inputs(model, configuration)
    return cast(nn.Module, model.float())


def _read(name: str, path: str) -> dict[str, Any]:
    """The content of a configuration file."""
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise UsageError(f"{name}: {path} is not a file: give transformers/ and the path of a config.json")
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise GradlabError(f"{name}: {path} cannot be read as JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise GradlabError(f"{name}: {path} holds no configuration, which is an object with a model_type")
    return content


def _give_to_decoder(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add the encoder's tokens as the decoder's."""
    tokens = args[0] if args else kwargs.get("input_ids")
    given = {"decoder_input_ids", "decoder_inputs_embeds", "labels"} & kwargs.keys()
    return args, kwargs if given or tokens is None else {**kwargs, "decoder_input_ids": tokens}


def _say_inputs(model: Any, configuration: Any) -> None:
    """Set what data needs to know of a network: the shape of an input, and the number of its tokens.

    The decoder of an encoder-decoder gets the same tokens as the encoder, unless it is given its own.
    """
    if getattr(configuration, "is_encoder_decoder", False):
        model.register_forward_pre_hook(_give_to_decoder, with_kwargs=True)
    if model.main_input_name == "input_ids" and (vocabulary := getattr(configuration, "vocab_size", None)):
        model.vocabulary = vocabulary
        model.input_shape = (min(TOKENS, getattr(configuration, "max_position_embeddings", None) or TOKENS),)
    elif model.main_input_name == "pixel_values" and isinstance(size := configuration.image_size, int):
        model.input_shape = (getattr(configuration, "num_channels", 3), size, size)
