"""`gradlab lesion`: networks with parts deleted or reordered, and gradients on single paths."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.experiments.lesion.request import STUDIES, LesionRequest
from gradlab.experiments.request import asked

from . import options
from .saving import Saving

FigureName = Literal["lesion", "deletion", "several", "paths"]

STUDIES_OF: dict[str, tuple[str, ...]] = {
    "lesion": STUDIES,
    "deletion": ("delete",),
    "several": ("several", "reorder"),
    "paths": ("paths",),
}
"""The studies of which a figure shows what was made."""


@dataclass(frozen=True, kw_only=True)
class LesionsRequest(LesionRequest):
    """Lesions, and the figures to draw."""

    figure: Sequence[FigureName] = asked(
        ("lesion",),
        "lesion (all panels); deletion (Fig. 3); several (Fig. 5: several deleted, and reordered); paths (Fig. 6). "
        "Default: lesion.",
        "LIST",
        typed=list[str],
        read=options.some_of(get_args(FigureName)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.figure:
            if not set(STUDIES_OF[name]) & set(self.listed_studies()):
                needed = " or ".join(STUDIES_OF[name])
                raise UsageError(f"the figure {name} shows the study {needed}, which is not among --studies")


@options.with_options(out=Path("results/lesion"))
def lesion(lesions: LesionsRequest, saving: Saving) -> None:
    """Delete and reorder parts of networks, and sample gradients on single paths (Veit et al. 2016, 1605.06431).

    Residual modules are found while the network runs, and deleted by leaving out their branches; of a network without
    any, layers that keep the shape of their input are deleted. Shown are the test error with each part deleted, with
    several random ones deleted, and with blocks reordered; the distribution of the lengths of paths, the gradient on a
    path by its length, and the product of both. Writes lesion.csv (one row per lesion), lesion-paths.csv (one row per
    sampled path), lesion.json (the record) and the figures.

        gradlab lesion --model resnet110,plain56

        gradlab lesion --model resnet56 --images 1000 --figure deletion
    """
    arguments = lesions.arguments()
    figures = arguments.pop("figure")
    with saving.progress() as progress:
        result = gl.lesion(**arguments, progress=progress)
    result.figures = figures
    saving.report(result)
