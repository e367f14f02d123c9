"""The stages of a paper's networks, with the counts that the paper prints (He et al. 2015, Table 1)."""

from __future__ import annotations

import fnmatch

import pandas as pd

from gradlab.errors import UsageError
from gradlab.experiments.request import Progress
from gradlab.models import describe, multiply_adds_by_part, named_cost, network_names, parse_name
from gradlab.results.architectures.result import ArchitecturesResult
from gradlab.results.record import Stopwatch, make_record

PAPER_MULTIPLY_ADDS = {
    "imagenet/resnet18": 1.8e9,
    "imagenet/plain34": 3.6e9,
    "imagenet/resnet34": 3.6e9,
    "imagenet/resnet50": 3.8e9,
    "imagenet/resnet101": 7.6e9,
    "imagenet/resnet152": 11.3e9,
    "imagenet/vgg16": 15.3e9,
    "imagenet/vgg19": 19.6e9,
}
"""FLOPs as printed in Table 1, Fig. 3 and §4.1, where a multiplication and its addition count as one."""

STAGES = {f"layer{number}": f"conv{number + 1}_x" for number in range(1, 5)}
"""The names of the stages in Table 1."""

VGG_STAGES = {"layer1": "conv1", **{f"layer{number}": f"conv{number}_x" for number in range(2, 6)}, "classifier": "fc"}
"""The names of VGG's stages, of which there are five, and of its three linear layers."""


def architectures(pattern: str = "imagenet/*", *, progress: Progress | None = None) -> ArchitecturesResult:
    """Count the multiply-adds of every stage of the papers' networks for one image, without running a network.

    Args:
        pattern: A glob over the names that `gradlab models` lists.
        progress: A function called after every network.

    Raises:
        UsageError: If nothing matches.
    """
    stopwatch = Stopwatch()
    models = fnmatch.filter(network_names(), pattern)
    if not models:
        raise UsageError(f"no network matches {pattern!r}; `gradlab models` lists them")
    rows, networks = [], []
    for done, name in enumerate(models, 1):
        network = parse_name(name)
        counted, model = named_cost(network), network.skeleton()
        stages = VGG_STAGES if describe(name).family == "vgg" else STAGES
        for part, multiply_adds in multiply_adds_by_part(model, model.input_shape).items():  # type: ignore[arg-type]
            rows.append(
                {
                    "network": name,
                    "stage": stages.get(part, part),
                    "multiply_adds": multiply_adds,
                    "layers": counted.layers,
                    "parameters": counted.parameters,
                    "paper_multiply_adds": PAPER_MULTIPLY_ADDS.get(name),
                }
            )
        networks.append({"network": name, "weights_label": "none"})
        if progress is not None:
            progress("networks", done, len(models))
    record = make_record(
        "architectures", options={"pattern": pattern}, device="none", stopwatch=stopwatch, networks=networks
    )
    return ArchitecturesResult(pd.DataFrame(rows).astype({"paper_multiply_adds": float}), record)
