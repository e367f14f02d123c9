"""The request of `gl.jacobian` and `gradlab jacobian`."""

from dataclasses import dataclass

from gradlab.experiments.request import MOST, NetworksRequest, again, asked


@dataclass(frozen=True, kw_only=True)
class JacobianRequest(NetworksRequest):
    """Networks and data, and the options for Jacobians."""

    images: int | None = again(NetworksRequest, "images", 2, help="The number of examples to take, each one alone.")
    seed: int = again(NetworksRequest, "seed", 0, help="The first seed of initial weights, and the seed of noise.")
    seeds: int = asked(3, "The number of initializations to measure of each network at init.", "N", least=1, most=MOST)
    part: str | None = asked(
        None, "The module whose outputs are differentiated by its input, such as body. Default: the network.", "NAME"
    )
    probes: int = asked(2, "The number of random vectors per example.", "N", least=1, most=MOST)
    steps: int = asked(80, "The number of Lanczos steps per vector.", "N", least=1, most=MOST)
