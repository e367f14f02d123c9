"""The noise of the gradient: how much the gradients of the micro-batches of one step, or of two batch sizes, differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gradlab.probes.watch.piece import Piece
from gradlab.probes.watch.shares import Value
from gradlab.results.dynamics.names import TOTAL
from gradlab.stats import gradient_variance, l2_norms, true_gradient_square
from gradlab.stats.gradient_noise import noise_of_two_batches


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
        self._part: tuple[Tensor, float] | None = None

    def pass_ended(self) -> None:
        """Take in the gradient that one more pass has added."""
        now = {id(p): p.grad.detach() for p in self.parameters if p.grad is not None}
        if not now:
            return
        added = [g - self._before[key] if key in self._before else g for key, g in now.items()]
        self._norms.append(l2_norms(added).norm())
        self._sum = l2_norms(list(now.values())).norm()
        self._before = {key: gradient.clone() for key, gradient in now.items()}

    def compare(self, norm: Tensor, share: float) -> None:
        """Take in the gradient of a part of the step's batch.

        Args:
            norm: The norm of the gradient of the part's mean loss.
            share: The examples of the part over those of the batch.
        """
        self._part = norm, share

    def piece(self, scale: Tensor | None) -> Piece | None:
        """Return noise and signal of the step's gradient; None for fewer than two batch sizes.

        A part of the batch that was given comes before micro-batches.

        Args:
            scale: What the loss of the backward passes was multiplied by.
        """
        norms, whole, part = self._norms, self._sum, self._part
        self.reset()
        if whole is None or (part is None and len(norms) < 2):
            return None
        joined = torch.stack([*norms, whole])
        joined = joined if scale is None else joined / scale.to(joined)
        if part is None:
            return Piece(joined, _noise_of_micro_batches)
        share = part[1]
        return Piece(torch.stack([part[0].to(joined), joined[-1]]), lambda numbers: _noise_of_a_part(numbers, share))


def _noise_of_micro_batches(numbers: list[float]) -> Iterator[Value]:
    """Yield tr(Σ) of one micro-batch's gradient and |G|², both unbiased, McCandlish et al. 2018, App. A.1.

    They are in units in which the step's gradient is the mean over its micro-batches. Their quotient is the noise scale
    in micro-batches, once both are averaged over steps.
    """
    count = len(numbers) - 1
    norms = count * torch.tensor(numbers[:-1], dtype=torch.float64)
    mean = torch.tensor(numbers[-1], dtype=torch.float64)
    yield TOTAL, "gradient_variance", gradient_variance(norms, mean).item()
    yield TOTAL, "gradient_square", true_gradient_square(norms, mean).item()


def _noise_of_a_part(numbers: list[float], share: float) -> Iterator[Value]:
    """Yield tr(Σ) of the part's gradient and |G|², both unbiased."""
    small, large = torch.tensor(numbers, dtype=torch.float64)
    variance, square = noise_of_two_batches(small, large, share)
    yield TOTAL, "gradient_variance", variance.item()
    yield TOTAL, "gradient_square", square.item()
