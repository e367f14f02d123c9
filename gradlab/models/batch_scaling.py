"""The two halves of batch normalization: centring alone, and division by the root mean square alone."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class BatchCentering(_BatchNorm):
    """Subtracts each neuron's mean over the batch, or in eval mode its running mean."""

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N) to (B, N)."""
        if not self.training and self.running_mean is not None:
            return x - self.running_mean
        mean = x.mean(0)
        _track(self.running_mean, mean, self.momentum, self.training)
        return x - mean


class BatchRMSNorm(_BatchNorm):
    """Divides each neuron by its root mean square over the batch, uncentred, or in eval mode by the running one."""

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N) to (B, N)."""
        if not self.training and self.running_var is not None:
            return x * (self.running_var + self.eps).rsqrt()
        square = x.square().mean(0)
        _track(self.running_var, square, self.momentum, self.training)
        return x * (square + self.eps).rsqrt()


@torch.no_grad()
def _track(running: Tensor | None, value: Tensor, momentum: float | None, training: bool) -> None:
    if training and running is not None:
        running.lerp_(value, 0.1 if momentum is None else momentum)
