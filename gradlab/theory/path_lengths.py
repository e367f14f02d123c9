"""The lengths of the paths through a residual network (Veit et al. 2016, arXiv:1605.06431, §3)."""

from __future__ import annotations

import torch
from torch import Tensor


def path_length_distribution(modules: int) -> Tensor:
    """Compute the fraction of a residual network's 2^n paths that pass through k of its n residual modules.

    A path passes through a module's branch or through its shortcut, so that there are n over k paths of length k: the
    binomial distribution with mean n/2.

    Args:
        modules: The number n of residual modules.

    Returns:
        The fractions for k = 0, …, n, float64 of shape (n + 1,).
    """
    k = torch.arange(modules + 1, dtype=torch.float64)
    n = torch.tensor(float(modules), dtype=torch.float64)
    paths = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return torch.softmax(paths, 0)
