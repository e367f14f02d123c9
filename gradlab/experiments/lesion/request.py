"""The request of `gl.lesion` and `gradlab lesion`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from gradlab.errors import UsageError
from gradlab.experiments import text
from gradlab.experiments.request import MOST, NetworksRequest, again, asked

Study = Literal["delete", "several", "reorder", "paths"]
STUDIES = get_args(Study)

SEVERAL = (2, 5, 10, 20)
"""The numbers of modules that are deleted at once; the paper deletes up to 20 of 54."""

SWAPS = (1, 3, 8, 20)
"""The numbers of pairs of blocks that are swapped one after another."""


@dataclass(frozen=True, kw_only=True)
class LesionRequest(NetworksRequest):
    """Networks and data, and how many lesions are made."""

    images: int | None = again(NetworksRequest, "images", 100)
    batch_size: int = again(NetworksRequest, "batch_size", 50)
    seed: int = again(NetworksRequest, "seed", 0, help="The seed of what is deleted, swapped and sampled, and of init.")
    studies: "Sequence[Study] | Study" = asked(
        STUDIES,
        "What to do: delete (each module), several (random ones at once), reorder (swap blocks), paths (gradients). "
        "Default: all.",
        "LIST",
        typed=list[str],
        read=text.items,
    )
    several: Sequence[int] = asked(
        SEVERAL,
        f"How many modules to delete at once. Default: {','.join(map(str, SEVERAL))}.",
        "LIST",
        least=1,
        typed=list[str],
        read=text.whole_numbers,
    )
    swaps: Sequence[int] = asked(
        SWAPS,
        f"How many pairs of blocks to swap. Default: {','.join(map(str, SWAPS))}.",
        "LIST",
        least=1,
        most=MOST,
        typed=list[str],
        read=text.whole_numbers,
    )
    samples: int = asked(5, "How many random choices to make of each number.", "N", least=1, most=MOST)
    paths: int = asked(
        20, "How many examples to sample, with a path of every length for each.", "N", least=1, most=MOST
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := next((study for study in self.listed_studies() if study not in STUDIES), None):
            raise UsageError(f"a study is {', '.join(STUDIES[:-1])} or {STUDIES[-1]}, not {wrong!r}")
        if not self.listed_studies():
            raise UsageError(f"name at least one study: {', '.join(STUDIES)}")

    def listed_studies(self) -> list[str]:
        """The studies, without repetitions."""
        return [self.studies] if isinstance(self.studies, str) else list(dict.fromkeys(self.studies))
