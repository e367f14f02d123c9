"""What gradients of single examples of a GPT cost, beside vmap(grad) and Opacus: paired ratios in one process.

    pip install opacus
    python -m benchmarks.transformers [--width 256] [--blocks 4] [--tokens 64] [--batch 16] [--rounds 15] [--device cpu]
                                      [--clock cpu]

Each way is timed between two bare steps, in turn, so that a drift of the machine's speed cancels in the ratio to their
mean. Printed: the median ratio over the rounds, and the quartiles. A bare step is the forward pass, the backward pass
and an SGD step; every way gives the norm of each example's gradient, by parameter and in total. `ExampleGradients` also
gives the mean cosine of the gradients of two examples by parameter and, unless it is said to leave it out, in total.
`--clock cpu` counts the seconds of this process, for a machine that others use as well, with OMP_NUM_THREADS=1. The
GPT has a head of its own (`-untied`), since Opacus does not take shared weights, and the embedding of positions is
called for every example in what Opacus is given.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import gradlab as gl
from benchmarks.readings import CLOCKS, ratio, seconds, spread


class Training:
    """A GPT, a batch of tokens, and what one training step of it may be."""

    def __init__(self, args: argparse.Namespace) -> None:
        name = f"gpt{args.blocks}-width={args.width}-context={args.tokens}-untied"
        self.model = gl.build(f"{name}@init", device=args.device)
        generator = torch.Generator().manual_seed(0)
        sequences = torch.randint(256, (args.batch, args.tokens + 1), generator=generator).to(args.device)
        self.tokens, self.labels = sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6)
        # Of its own, so that no hook of a probe is on it.
        self.plain = copy.deepcopy(self.model)
        self.plain_optimizer = torch.optim.SGD(self.plain.parameters(), lr=1e-6)

    def bare(self) -> None:
        """One step."""
        self.plain_optimizer.zero_grad()
        loss_of(self.plain(self.tokens), self.labels).backward()
        self.plain_optimizer.step()

    def probed(self, probe: gl.ExampleGradients) -> list[float]:
        """A step with `ExampleGradients`, which is attached once for all steps."""
        self.optimizer.zero_grad()
        probe.backward(loss_of(self.model(self.tokens), self.labels))
        probe.step()
        self.optimizer.step()
        return []

    def mapped(self) -> list[float]:
        """A step with every example's gradient by vmap(grad); its sum is that of the batch."""
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}

        def loss(values: dict[str, Tensor], tokens: Tensor, labels: Tensor) -> Tensor:
            return loss_of(functional_call(self.model, values, (tokens[None],)), labels[None])

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, self.tokens, self.labels)
        for name, parameter in self.model.named_parameters():
            parameter.grad = gradients[name].mean(0)
        self.optimizer.step()
        return norms(list(gradients.values()))

    def opacus(self) -> Callable[[], list[float]]:
        """A step with Opacus's gradients of single examples."""
        from opacus.grad_sample import GradSampleModule

        wrapped = GradSampleModule(_positions_by_example(copy.deepcopy(self.model).train()), loss_reduction="mean")
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=1e-6)

        def step() -> list[float]:
            wrapped.zero_grad(set_to_none=True)
            loss_of(wrapped(self.tokens), self.labels).backward()
            found = norms([p.grad_sample for p in wrapped.parameters()])  # type: ignore[attr-defined]
            optimizer.step()
            return found

        return step


def _positions_by_example(model: nn.Module) -> nn.Module:
    """The same GPT, whose embedding of positions is called for every example, which Opacus needs to tell them apart."""

    def forward(tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        x = model.embedding_scale * model.tokens(tokens) + model.positions(places)
        for block in model.blocks:
            x = block(x)
        return model.head(model.norm(x))

    model.forward = forward
    return model


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy over tokens."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def norms(gradients: list[Tensor]) -> list[float]:
    """The norm of each example's gradient over all parameters, from gradients (B, …)."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    return [float(n) for n in squares.sqrt()]


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 256), ("blocks", 4), ("tokens", 64), ("batch", 16), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    clock = CLOCKS[args.clock]
    training = Training(args)
    size = f"{args.blocks} blocks of width {args.width}, {args.batch} sequences of {args.tokens} tokens"
    print(f"{size}, {args.device}, {torch.get_num_threads()} threads, bare step {seconds(training.bare, clock):.3f} s")
    for name, total_cosine in (("ExampleGradients", True), ("without cosine", False)):
        with gl.ExampleGradients(training.model, total_cosine=total_cosine) as probe:
            way = partial(training.probed, probe)
            way()  # the first step also looks for the examples in every tensor
            show(name, [ratio(way, training.bare, clock) for _ in range(args.rounds)])
            frame = probe.examples()
    first = frame[(frame["layer"] == "total") & (frame["step"] == frame["step"].min())]
    ways = {"vmap(grad)": training.mapped}
    try:
        ways["Opacus"] = training.opacus()
    except ModuleNotFoundError:
        print("opacus is not installed")
    for name, way in ways.items():
        off = max(abs(a / b - 1) for a, b in zip(way(), first["norm"], strict=True))
        show(name, [ratio(way, training.bare, clock) for _ in range(args.rounds)], f"; norms off by {off:.1e}")


def show(name: str, ratios: list[float], more: str = "") -> None:
    """Print the ratio of a way to a step, with its quartiles."""
    print(f"{name:>17}: {spread(ratios, 2)}{more}", flush=True)


if __name__ == "__main__":
    main()
