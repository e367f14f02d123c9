"""Networks from elsewhere: torchvision, timm, transformers, and user-defined functions that return a network."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn

from gradlab.errors import GradlabError, UsageError
from gradlab.models.configured import from_configuration
from gradlab.models.detectors import DETECTORS, create_detector

PUBLISHED = ("torchvision", "timm")
"""Packages that publish weights under the names of their networks."""

PACKAGES = (*PUBLISHED, "transformers")
"""Packages whose networks are known by `PACKAGE/NAME`; of transformers it is the path of a configuration."""


def split_package(name: str) -> tuple[str, str]:
    """The package of a name and its own name there: `("timm", "vit_tiny_patch16_224")`.

    Args:
        name: The name of a network; of a network that is in none of `PACKAGES` the package is empty.
    """
    package, slash, rest = name.partition("/")
    return (package, rest) if slash and package in PACKAGES else ("", name)


def is_external(name: str) -> bool:
    """Return whether a name refers to a network of another package, or to a detector."""
    return bool(split_package(name)[0]) or ":" in name or name in DETECTORS


def is_function(name: str) -> bool:
    """Return whether a name refers to a user-defined function, `package.module:function`."""
    return is_external(name) and not split_package(name)[0] and name not in DETECTORS


def has_published_weights(name: str) -> bool:
    """Return whether a name refers to a network of a package that publishes weights under it."""
    return split_package(name)[0] in PUBLISHED


def check_external(name: str) -> None:
    """Check that a torchvision or timm network exists; other names are not checked.

    Raises:
        UsageError: If there is no such network. The message suggests similar names.
    """
    package, _ = split_package(name)
    if name in DETECTORS:
        return
    if package == "torchvision":
        from torchvision import models

        _require(name, models.list_models(module=models))
    elif package == "timm":
        try:
            import timm
        except ModuleNotFoundError:
            raise UsageError(f"{name} needs timm: pip install 'gradlab-torch[timm]'") from None
        _require(name.split(".")[0], timm.list_models())


def file_options(name: str, keys: Iterable[str], published: bool) -> dict[str, Any]:
    """Infer from a checkpoint's keys the options with which torchvision's builder makes its network.

    GoogLeNet and Inception have auxiliary heads for training, which torchvision drops when it loads published weights.
    Those weights expect images on a different scale, to which the networks then convert their input.

    Args:
        name: The name of the network.
        keys: The keys of the state dict.
        published: Whether torchvision published the file.
    """
    if name not in ("torchvision/googlenet", "torchvision/inception_v3"):
        return {}
    auxiliary = any(part.lower().startswith("aux") for key in keys for part in key.split("."))
    return {"aux_logits": auxiliary, "transform_input": published}


def load_external(name: str, classes: int | None, seed: int, **options: Any) -> nn.Module:
    """Build a network of another package with its own initialization, drawn from a seed.

    Args:
        name: A name `torchvision/NAME`, `timm/NAME`, `transformers/CONFIG.json` or `package.module:function`; the
            function takes no argument.
        classes: The number of outputs of the classifier; None keeps the network's default. A function's network keeps
            it in any case.
        seed: The seed of the initial weights; the caller's random state is preserved.
        **options: Options for torchvision's builder.

    Raises:
        UsageError: If there is no such package, module, function or network.
        GradlabError: If the function raises, or returns something other than a module.
    """
    check_external(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        package, own_name = split_package(name)
        if name in DETECTORS:
            return create_detector(name, classes, seed)
        if package == "torchvision":
            return _torchvision(own_name, classes, options)
        if package == "timm":
            return _timm(own_name, classes)
        if package == "transformers":
            return from_configuration(name, own_name, classes)
        return _function(name)


def _torchvision(name: str, classes: int | None, asked: dict[str, Any]) -> nn.Module:
    from torchvision import models

    options = asked if classes is None else {**asked, "num_classes": classes}
    # GoogLeNet and Inception warn that their slow initialization will change, unless it is requested.
    if name in ("googlenet", "inception_v3"):
        options = {**options, "init_weights": True}
    model = cast(nn.Module, models.get_model(name, weights=None, **options))
    model.input_shape = (3, 299, 299) if name == "inception_v3" else (3, 224, 224)  # type: ignore[assignment]
    return model


def _timm(name: str, classes: int | None) -> nn.Module:
    import timm

    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        model = cast(Any, timm.create_model(name, pretrained=False, **options))
    except Exception as error:  # an unknown tag, or a network without classes
        raise UsageError(f"timm/{name} cannot be built: {_first_line(error)}") from None
    model.input_shape = tuple(model.pretrained_cfg.get("input_size") or (3, 224, 224))
    return cast(nn.Module, model)


def import_function(name: str) -> Callable[..., object]:
    """Import a user-defined function.

    Args:
        name: The name of the function, `package.module:function`; the module may be in the current folder.

    Raises:
        UsageError: If there is no such module or function.
        GradlabError: If the module raises when it is imported.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UsageError(f"{name!r} names no function: give package.module:function")
    if module_name.endswith(".py") or {*"/\\"} & {*module_name}:
        raise UsageError(f"{name}: {_of_path(module_name, function_name)}")
    # The folder comes after all installed packages, so that a local file cannot shadow a library.
    sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{name}: there is no module {error.name!r} to import") from None
    except (Exception, SystemExit) as error:
        raise GradlabError(
            f"{name}: importing {module_name} raised {type(error).__name__}: {_first_line(error)}"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    function: Callable[..., object] | None = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"{name}: {module_name} has no function {function_name!r}")
    return function


def _of_path(path: str, function_name: str) -> str:
    """What to give in place of a path, which is no name of a module."""
    folder, _, file = path.replace("\\", "/").rpartition("/")
    where = "" if folder in ("", ".") else f", run in {folder} or with that folder in PYTHONPATH"
    return f"{path} is a path, not the name of a module: give {file.removesuffix('.py')}:{function_name}{where}"


def _function(name: str) -> nn.Module:
    model = called(import_function(name), name)
    if not isinstance(model, nn.Module):
        raise GradlabError(f"{name}() returned {type(model).__name__}, not a torch.nn.Module")
    return model


def called(function: Callable[..., object], name: str, *sizes: int, **named: int) -> object:
    """Call a user's function, whose network is to be of some sizes.

    Args:
        function: The function.
        name: Its name, for the error.
        *sizes: Sizes without names.
        **named: Sizes by the names of arguments.

    Raises:
        GradlabError: If the function raises an exception.
    """
    try:
        return function(*sizes, **named)
    except (Exception, SystemExit) as error:
        given = ", ".join([*map(str, sizes), *(f"{axis}={size}" for axis, size in named.items())])
        raise GradlabError(f"{name}({given}) raised {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message, truncated to 200 characters."""
    return next(iter(str(error).strip().splitlines()), "")[:200]


def _require(asked: str, known: list[str]) -> None:
    package, _, name = asked.partition("/")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; the nearest are {', '.join(f'{package}/{other}' for other in near)}" if near else ""
        raise UsageError(f"unknown network {asked!r}: {package} has no such model{hint}")
