"""The request of `gl.activations` and `gradlab activations`."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradlab.errors import UsageError
from gradlab.experiments.request import MOST, Dtype, Request, again, asked
from gradlab.experiments.shatter.request import MOST_VALUES, Init, ShatterRequest, check_line

FAMILIES = ("ff-norm=none", "ff-norm=bn", "resnet", "resnet-beta=0.1")


@dataclass(frozen=True, kw_only=True)
class ActivationsRequest(Request):
    """Random fully connected nets of one depth and a line of inputs."""

    depth: int = asked(50, "The number of ReLU layers, or of residual blocks.", "N", least=1, most=MOST)
    families: Sequence[str] | str = again(
        ShatterRequest,
        "families",
        FAMILIES,
        help=f"ff, resnet and ll, with settings as in gradlab shatter. Default: {','.join(FAMILIES)}.",
    )
    seeds: int = again(ShatterRequest, "seeds", 20)
    width: int = again(ShatterRequest, "width", 200)
    points: int = again(ShatterRequest, "points", 256)
    interval: tuple[float, float] = again(ShatterRequest, "interval", (-2.0, 2.0))
    init: Init = again(ShatterRequest, "init", "he")
    dtype: Dtype = again(ShatterRequest, "dtype", "float32")
    device: str = again(ShatterRequest, "device", "auto")
    seed: int = again(ShatterRequest, "seed", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.listed_families():
            raise UsageError("name at least one family: ff, resnet, resnet-beta=0.1, ll")
        check_line(self.interval, self.points, self.dtype)
        if self.width * (self.depth + self.points) > MOST_VALUES:
            raise UsageError(f"the width times the sum of depth and points is at most {MOST_VALUES:,}")

    def listed_families(self) -> list[str]:
        """The families, without repetitions."""
        return [self.families] if isinstance(self.families, str) else list(dict.fromkeys(self.families))
