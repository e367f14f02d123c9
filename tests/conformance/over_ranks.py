"""What the probes are right about in a distributed run, by probe and way to run: `oracles.{data,tensor}_ranks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

COPIED = {
    "DistributedDataParallel": "",
    "fully_shard": "sharded_",
    "torch.compile around DDP": "compiled_",
}
SPLIT = {
    "weights split by parallelize_module": "split_",
    "tokens split as well": "split_tokens_",
}
WAYS = COPIED | SPLIT
"""How a model is run, and how the names of its checks begin: with examples of each rank, and with layers split."""

PROBES = {
    "ResponseStd": "responses",
    "ResponseGradients": "response_gradients",
    "ParameterGradients": "parameter_gradients",
    "ExampleGradients": "example_gradients",
    "InputGradients": "input_gradients",
    "BlockSignal": "signal",
    "AttentionStatistics": "attention",
    "gl.watch": "watch",
}
"""The probes, and how the names of their checks end."""

PARTS = "tensor parallelism runs a part of its layer on each rank"
REFUSED = {
    "split_example_gradients": PARTS,
    "split_tokens_example_gradients": PARTS,
}
"""The checks that have no number, and why."""

TEXT = """## Over ranks

Two and three processes with gloo, and eight in twenty of the checks, on the CPU in float64, compared with one process
on the examples of all.
*Equal* is a relative deviation of at most 1e-12 in moments and counts, and of 1e-6 in gradients. On a mesh of two
dimensions, `fully_shard` along one and `parallelize_module` along the other, `ResponseStd` is equal as well, as it is
with a mixed precision of the shards; so are four probes where `fully_shard` has both dimensions, and copies shards
along one, with four processes. The checks are those of `tests/probes/test_ranks.py` and `test_tensor_parallel.py`, and
those of ranks that do not do the same of `test_uneven_ranks.py`.
"""


def cells(ways: Mapping[str, str] = MappingProxyType(WAYS)) -> dict[tuple[str, str], str]:
    """Return the check of each probe and way to run, for all ways or some."""
    return {(probe, way): f"{begin}{end}" for probe, end in PROBES.items() for way, begin in ways.items()}


def section(plain: Callable[[str], str]) -> str:
    """Return the table in Markdown.

    Args:
        plain: A function that gives text which Markdown takes as it is.
    """
    reasons = list(dict.fromkeys(REFUSED.values()))
    table, checks = [f"| probe | {' | '.join(map(plain, WAYS))} |", f"|---|{'---|' * len(WAYS)}"], cells()
    for probe in PROBES:
        row = [
            f"refused ({reasons.index(REFUSED[checks[probe, way]]) + 1})" if checks[probe, way] in REFUSED else "equal"
            for way in WAYS
        ]
        table.append(f"| {plain(probe)} | {' | '.join(row)} |")
    return "\n".join([TEXT, *table, "", *(f"{n}. {plain(reason)}" for n, reason in enumerate(reasons, 1)), ""])
