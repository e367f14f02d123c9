"""What the loop itself adds to the record of a step, and the losses that it has computed on the side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradlab.errors import UsageError
from gradlab.stats import l2_norms


class Logged:
    """Keeps what was logged until the record of its step is closed."""

    def __init__(self) -> None:
        self._values: dict[str, Tensor] = {}
        self._again: Callable[[], Tensor] | None = None

    def add(self, values: Mapping[str, Tensor | float], again: Callable[[], Tensor] | None) -> None:
        """See `Watch.log`."""
        self._values |= {name: torch.as_tensor(value).detach().reshape(()) for name, value in values.items()}
        self._again = again or self._again

    def take(self, model: nn.Module, loss: Tensor | None) -> dict[str, Tensor]:
        """Take out what was logged, with the loss and how it has changed, where these are known.

        Args:
            model: What is trained; its step has been made.
            loss: Of the step's backward passes, in whose place another may have been logged.
        """
        values, self._values = self._values, {}
        again, self._again = self._again, None
        loss = values.pop("loss", loss)
        if loss is not None:
            values["loss"] = loss
            if again is not None:
                values["actual_loss_change"] = _repeated_loss(model, again).to(loss) - loss
        return values


def gradient_norm_of(model: nn.Module, part: Callable[[], Tensor]) -> Tensor:
    """Return the norm of a loss's gradient with respect to all trained parameters, whose own gradients stay.

    Args:
        model: The model that the loss is computed with.
        part: Computes the loss.

    Raises:
        UsageError: If the loss does not depend on any of them.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad(), left_as_it_was(model):
        loss = part()
        if not loss.requires_grad:
            raise UsageError("part= is to return a loss of the watched model, and this one has no gradient")
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    norm: Tensor = l2_norms([gradient for gradient in gradients if gradient is not None] or [loss.new_zeros(1)]).norm()
    return norm


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """A context from which a model's buffers and the random numbers come out as they went in."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {buffer.device for buffer in [*model.parameters(), *model.buffers()] if buffer.is_cuda}
    with torch.random.fork_rng(devices):
        yield
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)


def _repeated_loss(model: nn.Module, again: Callable[[], Tensor]) -> Tensor:
    """Return a loss that is computed once more, without gradients."""
    with torch.no_grad(), left_as_it_was(model):
        return torch.as_tensor(again()).detach().clone()
