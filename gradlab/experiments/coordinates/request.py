"""The request of `gl.coordinate_check` and `gradlab coordinates`."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, Literal

from gradlab.data.datasets import data_sets_help
from gradlab.errors import UsageError
from gradlab.experiments import text
from gradlab.experiments.request import MOST, MOST_SEED, Request, asked

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Parametrization = Literal["mup", "standard"]
OptimizerName = Literal["adam", "sgd"]
MakeModel = Callable[..., Any] | str
MakeOptimizer = Callable[["nn.Module"], "Optimizer"]

SIZES = "three or more, comma-separated or repeated."


@dataclass(frozen=True, kw_only=True)
class CoordinatesRequest(Request):
    """Networks by width and depth, their training, and the exponents to compare with."""

    make_model: MakeModel = asked(
        MISSING,
        "A name with placeholders, such as 'resnet{depth}', or package.module:function, a function of width, depth or "
        "both that returns a network, alone or with its optimizer.",
        "NAME",
        "--model",
        "-m",
        typed=str,
    )
    widths: Sequence[int] = asked((), f"The widths: {SIZES}", "LIST", least=1, typed=list[str], read=text.whole_numbers)
    depths: Sequence[int] = asked((), f"The depths: {SIZES}", "LIST", least=1, typed=list[str], read=text.whole_numbers)
    parametrization: Parametrization = asked(
        "mup",
        "The parametrization to compare widths with: mup, or standard, whose exponents are known for the first step by "
        "SGD or Adam at a small learning rate.",
    )
    branch: float = asked(
        0.5, "The expected scaling of residual branches, depth^−branch: 0.5 in Depth-μP, 1 in CompleteP.", "POWER"
    )
    optimizer: "MakeOptimizer | OptimizerName | None" = asked(
        None, "adam or sgd, if the function returns no optimizer. Default: adam.", "NAME", typed=str | None
    )
    rate: float = asked(1e-3, "The learning rate of that optimizer.", "RATE")
    steps: int | None = asked(None, "The number of optimizer steps. Default: 3, and 1 for standard.", "N", least=1)
    seeds: int = asked(8, "The number of networks to train of each size.", "N", least=2, most=MOST)
    data: str = asked("cifar10-sample", f"The data: {data_sets_help()}.", "DATA")
    images: int = asked(16, "The number of images in the batch on which all networks are trained.", "N", least=1)
    device: str = asked("auto", "The device: auto, cpu, cuda, cuda:1 or mps.", "DEVICE")
    seed: int = asked(
        0, "The seed of the first network; each of the others has the next one.", "N", least=0, most=MOST_SEED
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis, sizes in (("widths", self.widths), ("depths", self.depths)):
            if len(sizes) == 2 or len(set(sizes)) < len(sizes):
                raise UsageError(f"{axis} are three or more different numbers, or one that stays, not {[*sizes]}")
        if len(self.widths) < 3 and len(self.depths) < 3:
            raise UsageError("give three or more widths, or depths: two points are no test of a power law")
        if isinstance(self.optimizer, str) and self.optimizer not in ("adam", "sgd"):
            raise UsageError(f"optimizer is adam, sgd or a function, not {self.optimizer!r}")
        if self.parametrization == "standard" and len(self.depths) > 1:
            raise UsageError("the standard parametrization has no known exponents over depth: give one depth, or none")
        if self.parametrization == "standard" and self.steps not in (None, 1):
            raise UsageError(f"the standard parametrization has known exponents of the first step, not of {self.steps}")
        if not 0 <= self.branch <= 1:
            raise UsageError(f"branch is a power from 0 to 1, not {self.branch}")

    def listed_steps(self) -> int:
        """The number of steps."""
        return self.steps or (1 if self.parametrization == "standard" else 3)
