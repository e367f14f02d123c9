"""What `gl.jacobian` and `gradlab jacobian` ask for."""

from dataclasses import dataclass

from gradlab.experiments.request import NetworksRequest, again, asked


@dataclass(frozen=True, kw_only=True)
class JacobianRequest(NetworksRequest):
    """Networks and data, and what is special to Jacobians."""

    images: int | None = again(NetworksRequest, "images", 2, help="How many examples to take, each by itself.")
    seed: int = again(NetworksRequest, "seed", 0, help="The first seed of initial weights, and that of all noise.")
    seeds: int = asked(3, "How many initial weights to measure of each network at init.", "N", least=1)
    part: str | None = asked(
        None, "The module whose outputs are differentiated by its input, such as body. Default: the network.", "NAME"
    )
    probes: int = asked(2, "How many random vectors for each example.", "N", least=1)
    steps: int = asked(80, "How many Lanczos steps for each vector.", "N", least=1)
