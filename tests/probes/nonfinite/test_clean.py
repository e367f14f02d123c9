"""No alarm where nothing is wrong: clean runs of many architectures, and infinities that are there on purpose."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from architectures.catalog import ARCHITECTURES, Architecture, loss_of
from torch import Tensor, nn

from gradlab.probes.nonfinite import find_nonfinite

INF = float("inf")

CLEAN = [architecture for architecture in ARCHITECTURES if not architecture.slow][::2]


@pytest.mark.parametrize("architecture", CLEAN, ids=lambda a: a.name)
def test_clean_run(architecture: Architecture) -> None:
    model = architecture.model().float().train()
    batch = {k: v.float() if v.is_floating_point() else v for k, v in architecture.inputs().items()}
    assert find_nonfinite(model, batch, lambda output, batch: loss_of(output)) is None


def test_there_are_twenty_clean_runs() -> None:
    assert len(CLEAN) >= 20


def _causal(x: Tensor) -> Tensor:
    mask = torch.full((x.shape[1], x.shape[1]), -INF).triu(1)
    return (x @ x.mT + mask).softmax(-1) @ x


def _logsumexp(x: Tensor) -> Tensor:
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return torch.logsumexp((x @ x.mT).masked_fill(future, -INF), -1, keepdim=True)


def _minimum(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.tensor(INF)).amin(-1, keepdim=True).clamp(max=3)


def _by_hand(x: Tensor) -> Tensor:
    scores = (x @ x.mT).masked_fill(torch.eye(x.shape[1], dtype=torch.bool), -INF)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return (weights / weights.sum(-1, keepdim=True)) @ x


def _in_memory(x: Tensor) -> Tensor:
    memory = torch.empty_like(x)
    for i in range(x.shape[1]):
        memory[:, i] = x[:, i].exp()
    return memory


def _masked_mean(x: Tensor) -> Tensor:
    scores = torch.full_like(x, -INF)
    scores[:, :2] = x[:, :2]
    scores[scores == -INF] = 0
    return scores


ON_PURPOSE: dict[str, Callable[[Tensor], Tensor]] = {
    "causal attention": _causal,
    "logsumexp of what is masked": _logsumexp,
    "a minimum over some": _minimum,
    "softmax by hand": _by_hand,
    "memory that is filled part by part": _in_memory,
    "infinities that are overwritten": _masked_mean,
    "max-pooling": lambda x: F.max_pool1d(F.pad(x, (1, 1), value=-INF), 3, 1),
    "an overflow that saturates": lambda x: torch.sigmoid(x.detach() * 1e38 * 1e38) + x,
    "where around the argument": lambda x: torch.where(x > 0, x, 1).log(),
    "log of a mask": lambda x: (x @ x.mT + torch.eye(x.shape[1]).log()).softmax(-1) @ x,
    "attention with a mask of -inf": lambda x: F.scaled_dot_product_attention(
        x, x, x, torch.full((x.shape[1],) * 2, -INF).triu(1)
    ),
}


class Around(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 6), nn.Linear(6, 6), function
        self.register_buffer("mask", torch.full((4, 4), -INF).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.first(x))
        return self.last(y.expand(*y.shape[:-1], 6))


@pytest.mark.parametrize("name", ON_PURPOSE)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_infinity_on_purpose(name: str, dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    model = Around(ON_PURPOSE[name])
    batch = torch.randn(3, 4, 6)
    loss = nn.functional.mse_loss
    assert find_nonfinite(model, (batch, torch.zeros(3, 4, 6)), loss, autocast=dtype) is None
    assert find_nonfinite(model, batch, autocast=dtype) is None


def test_mask_in_a_buffer_and_in_the_batch() -> None:
    model = Around(lambda x: (x @ x.mT + model.mask).softmax(-1) @ x)
    assert find_nonfinite(model, torch.randn(3, 4, 6)) is None


def test_model_whose_output_is_masked() -> None:
    model = nn.Linear(4, 4)
    model.register_forward_hook(lambda module, args, output: output.masked_fill(output < 0, -INF))
    assert find_nonfinite(model, torch.randn(5, 4)) is None
    origin = find_nonfinite(model, torch.randn(5, 4), torch.sum)
    assert origin is not None
    assert (origin.operation, origin.value) == ("masked_fill", "−inf")
