"""The request of `gl.compare` and `gradlab compare`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from gradlab.errors import UsageError
from gradlab.experiments.request import MOST, MOST_SEED, Request, asked
from gradlab.experiments.text import items, whole_numbers

Question = Literal["depth", "shortcut", "block"]
Match = Literal["parameters", "multiply-adds"]

DEPTHS: dict[str, tuple[int, ...]] = {"depth": (20, 56, 110), "shortcut": (20, 56), "block": (56,)}
"""The depths that each question compares by default; for blocks, that of the reference."""

BLOCKS = ("resnet", "preact", "densenet", "vovnet", "highway", "plain")
"""The blocks that can be compared."""


@dataclass(frozen=True, kw_only=True)
class CompareRequest(Request):
    """A question, the networks that answer it, and how long they are trained."""

    question: Question = asked(
        "depth",
        "depth: is deeper always better? shortcut: does the shortcut help? block: how does a block compare with "
        "others of equal size?",
    )
    depths: Sequence[int] | None = asked(
        None,
        "The numbers of weighted layers, 6n + 2. Default: 20,56,110; for shortcut 20,56; for block 56, that of the "
        "reference.",
        "LIST",
        typed=list[str],
        read=whole_numbers,
    )
    blocks: Sequence[str] = asked(
        BLOCKS,
        f"For block, the blocks to compare, the first being the reference: {', '.join(BLOCKS)}. Default: all.",
        "LIST",
        typed=list[str],
        read=items,
    )
    match: Match = asked("parameters", "For block, what is equal in all networks: parameters or multiply-adds.")
    tolerance: float = asked(0.05, "For block, by which fraction the counts may differ from the reference's.", "X")
    data: str = asked(
        "cifar10-sample", "The data: cifar10-sample, cifar10, cifar100, or PATH.npz with training and test.", "DATA"
    )
    images: int = asked(32, "The number of images of the batch at initialization.", "N", least=2)
    seed: int = asked(0, "The first seed of initial weights, and the seed of trainings.", "N", least=0, most=MOST_SEED)
    seeds: int = asked(4, "The number of initializations of each network.", "N", least=2, most=MOST)
    device: str = asked("auto", "The device: auto, cpu, cuda, cuda:1 or mps.", "DEVICE")
    epochs: int | None = asked(
        None, "Also train every network for this many passes over the training images.", "N", least=1
    )
    preset: str = asked("fast", "With --epochs, the recipe: fast or he2015.", "PRESET")
    runs: str = asked("runs/compare", "With --epochs, the folder of the runs.", "DIR")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_use()
        if not 0 < self.tolerance < 1:
            raise UsageError(f"the tolerance is a fraction between 0 and 1, not {self.tolerance}")
        if self.question == "block" and len(self.asked_depths()) != 1:
            raise UsageError("blocks are compared at one depth, that of the reference: give one depth (--depths 56)")
        if self.question == "depth" and len(self.asked_depths()) < 2:
            raise UsageError("a comparison of depths needs at least two (--depths 20,56)")
        if wrong := [block for block in self.blocks if block not in BLOCKS]:
            raise UsageError(
                f"{wrong[0]!r} is none of the blocks {', '.join(BLOCKS)}, which are of convolutions; transformers "
                "with and without shortcuts are compared by gradlab degradation --families gpt,gpt-shortcut=none"
            )
        if self.question == "block" and len(set(self.blocks)) < 2:
            raise UsageError("a comparison of blocks needs at least two (--blocks resnet,densenet)")

    def _check_use(self) -> None:
        """Check that no option is given that the question, or a comparison without trainings, does not use.

        Raises:
            UsageError: If one is.
        """
        unused: dict[str, str] = {}
        if self.question != "block":
            unused |= dict.fromkeys(("blocks", "match", "tolerance"), "--question block")
        if self.epochs is None:
            unused |= dict.fromkeys(("preset", "runs"), "--epochs")
        defaults = {known.name: known.default for known in fields(self)}
        for name, user in unused.items():
            if _listed(getattr(self, name)) != _listed(defaults[name]):
                raise UsageError(f"--{name} is for {user} alone: leave it out, or give {user}")

    def asked_depths(self) -> list[int]:
        """The depths in increasing order, each once."""
        return sorted(set(self.depths or DEPTHS[self.question]))


def _listed(value: Any) -> Any:
    """A sequence as a list, so that it equals one of another type."""
    return list(value) if isinstance(value, tuple) else value
