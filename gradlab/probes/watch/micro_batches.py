"""How much the gradients of the micro-batches of one step differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gradlab.probes.watch.piece import TOTAL, Piece, Value
from gradlab.stats import gradient_variance, l2_norms, true_gradient_square


class MicroBatches:
    """Takes the gradient of each backward pass out of what accumulates.

    A copy of all gradients is kept from one pass of a step to the next.

    Args:
        parameters: Whose gradients accumulate.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.reset()

    def reset(self) -> None:
        """Begin another step."""
        self._before: dict[int, Tensor] = {}
        self._norms: list[Tensor] = []
        self._sum: Tensor | None = None

    def pass_ended(self) -> None:
        """Take in the gradient that one more pass has added."""
        now = {id(p): p.grad.detach() for p in self.parameters if p.grad is not None}
        if not now:
            return
        added = [g - self._before[key] if key in self._before else g for key, g in now.items()]
        self._norms.append(l2_norms(added).norm())
        self._sum = l2_norms(list(now.values())).norm()
        self._before = {key: gradient.clone() for key, gradient in now.items()}

    def piece(self) -> Piece | None:
        """Noise and signal of the step's gradient; None for fewer than two micro-batches."""
        norms, whole = self._norms, self._sum
        self.reset()
        if len(norms) < 2 or whole is None:
            return None
        return Piece(torch.stack([*norms, whole]), _noise)


def _noise(numbers: list[float]) -> Iterator[Value]:
    """tr(Σ) of one micro-batch's gradient and |G|², both unbiased, McCandlish et al. 2018 (arXiv:1812.06162), App. A.1.

    In units in which the step's gradient is the mean over its micro-batches. Their quotient is the noise scale in
    micro-batches, once both are averaged over steps.
    """
    count = len(numbers) - 1
    norms = count * torch.tensor(numbers[:-1], dtype=torch.float64)
    mean = torch.tensor(numbers[-1], dtype=torch.float64)
    yield TOTAL, "gradient_variance", gradient_variance(norms, mean).item()
    yield TOTAL, "gradient_square", true_gradient_square(norms, mean).item()
