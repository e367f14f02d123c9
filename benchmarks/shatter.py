"""What `gradlab shatter` costs: its numeric core against its arithmetic and against a loop over points.

    python -m benchmarks.shatter [--depth 128] [--rounds 7] [--family resnet] [--device cuda]

Every figure is a ratio within one process, of one seed's pass over all layers, statistics of activation included.
`arithmetic` is the products of weights with states and tangents, 2·N²·2M operations a layer, at the rate that this
machine multiplies such matrices, in float64 for looks-linear nets, as they need. Those have orthogonal weights, of
which each needs the Householder factors and their product besides, 8/3·N³ operations, counted at the same rate;
`weights` is drawing them. Times are the process's own seconds; memory shared with other work still slows the pass more
than the products.
`module, point by point` is what notebooks do: a forward and a backward pass for every input, the statistics of
normalization frozen; a few points are timed and counted up. With cuda, also the ratio of one CPU core's time to that
of all seeds in one batch.
"""

import argparse
import statistics
from functools import partial

import torch

from benchmarks.readings import CLOCKS, seconds, spread
from gradlab.models import MLPArchitecture, create_mlp, forward_mode, parse_family
from gradlab.models.mlp import WeightStream

WIDTH, POINTS, SEEDS = 200, 256, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--family", default="resnet")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    family, depth = parse_family(args.family).at(args.depth), args.depth

    times, rate = measure(family, depth, args.rounds)
    print(f"{family.name}, depth {depth}, one seed, one thread; {rate:.0f} GFLOP/s in products of this shape")
    for name in times:
        ratios = [a / b for a, b in zip(times[name], times["arithmetic"], strict=True)]
        print(f"{name:24s} {statistics.median(times[name]):8.3f} s, over the arithmetic {spread(ratios, 2)}")
    loop = [a / b for a, b in zip(times["module, point by point"], times["forward-mode pass"], strict=True)]
    print(f"the pass is {statistics.median(loop):.0f} times as fast as the module point by point")
    if args.device.startswith("cuda"):
        one_core = statistics.median(times["forward-mode pass"]) * SEEDS
        all_seeds = partial(run, family, depth, range(SEEDS), args.device)
        batched = statistics.mean(seconds(all_seeds, CLOCKS["wall"]) for _ in range(3))
        print(
            f"{SEEDS} seeds: one CPU core {one_core:.2f} s, {args.device} {batched:.2f} s, "
            f"{one_core / batched:.1f} times as fast"
        )


def measure(family, depth: int, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of each variant, round by round, those of some points counted up; and GFLOP/s of the products."""
    variants = {
        "arithmetic": lambda: multiply(depth, torch.float64 if family.kind == "ll" else torch.float32),
        "weights": lambda: draw(family, depth),
        "forward-mode pass": lambda: run(family, depth, [0]),
        "module, point by point": lambda: point_by_point(family, depth, points=4),
    }
    times = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, function in variants.items():
            elapsed = seconds(function)
            if round_:
                times[name].append(elapsed)
    times["module, point by point"] = [elapsed * POINTS / 4 for elapsed in times["module, point by point"]]

    products = 2 * WIDTH**2 * 2 * POINTS
    rate = depth * products / statistics.median(times["arithmetic"]) / 1e9
    orthogonal = 8 / 3 * WIDTH**3 if family.kind == "ll" else 0
    times["arithmetic"] = [elapsed * (1 + orthogonal / products) for elapsed in times["arithmetic"]]
    return times, rate


@torch.inference_mode()
def multiply(depth: int, dtype: torch.dtype) -> None:
    weight = torch.randn(WIDTH, WIDTH, dtype=dtype) / WIDTH**0.5
    rows = torch.randn(WIDTH, 2 * POINTS, dtype=dtype)
    out = torch.empty_like(rows)
    for _ in range(depth):
        torch.mm(weight, rows, out=out)


def draw(family, depth: int) -> None:
    stream = WeightStream(family, WIDTH, 0)
    for _ in range(depth):
        stream.layer()


def run(family, depth: int, seeds, device: str = "cpu") -> None:
    x = torch.linspace(-2, 2, POINTS)
    forward_mode(family, x, list(seeds), [depth], width=WIDTH, device=device).gradients[depth].cpu()


def point_by_point(family, depth: int, points: int) -> None:
    model = create_mlp(MLPArchitecture(family, depth, WIDTH)).eval()
    for value in torch.linspace(-2, 2, points):
        point = value.reshape(1, 1).requires_grad_()
        torch.autograd.grad(model(point).sum(), point)


if __name__ == "__main__":
    main()
