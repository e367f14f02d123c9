"""Networks whose parameters' gradients are hard to take apart by example, and the loop that does it one by one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import gradlab as gl
from gradlab.probes.selection import Selection


def images(n: int = 3, size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def trained(model: nn.Module, size: int = 32) -> nn.Module:
    """Running statistics of the images' own size, and scales and shifts that are not 1 and 0."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.train()(images(4, size))
    return model.eval()


def loss_of(output: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy with label i mod classes for example i; any output is taken as logits."""
    logits = output.flatten(1)
    return F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1], reduction=reduction)


def by_loop(model: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    """Each parameter's gradient of the loss of each example, one backward pass an example."""
    found: dict[str, list[Tensor]] = {}
    for i in range(len(x)):
        logits = model(x[i : i + 1]).flatten(1)
        loss = F.cross_entropy(logits, torch.tensor([i % logits.shape[1]]))
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            value = torch.zeros_like(parameters[name]) if gradient is None else gradient
            found.setdefault(name, []).append(value.flatten())
    return found


class Tokens(nn.Module):
    """Linear layers on (B, T, D): long enough for rows, short enough for Gram matrices; layer normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(12, 40), nn.Parameter(torch.randn(8, 40))
        self.norm, self.wide, self.narrow = nn.LayerNorm(40), nn.Linear(40, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.reshape(len(x), 8, 12)) + self.position
        return self.narrow(torch.tanh(self.wide(self.norm(x)))).mean(1)


class Awkward(nn.Module):
    """What the exact rules do not serve, or serve with care: padding, groups, strides, weight normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 4, 3, padding="same", bias=True)
        self.circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        self.grouped = nn.Conv2d(4, 8, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(2, 1), groups=2)
        self.group_norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.prelu = nn.PReLU(4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.head = weight_norm(nn.Linear(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.group_norm(self.grouped(self.circular(self.same(x)))))
        x = self.depthwise(self.prelu(self.up(x)))
        return self.head(x.mean((2, 3)))


class Shared(nn.Module):
    """A module called three times, and a weight that two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.conv(x))
        return self.two(torch.tanh(self.one(x.mean((2, 3)))))


class Attention(nn.Module):
    """Attention, whose projection is a module that is never called."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.reshape(len(x), 8, 12)).mean(1))


MLP = nn.Sequential(nn.Flatten(), nn.Linear(96, 20), nn.ReLU(inplace=True), nn.Linear(20, 10, bias=False))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem, self.block = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)
        return x.mean((2, 3))


def gradients_of(model: nn.Module) -> dict[str, Tensor | None]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def expected_of(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """By autograd alone."""
    model.zero_grad()
    loss_of(model(x)).backward()
    return gradients_of(model)


def check_backward(model: nn.Module, x: Tensor, layers: Selection = None) -> gl.ExampleGradients:
    """That the probe's own backward pass gives what autograd's does."""
    expected = expected_of(model, x)
    with gl.ExampleGradients(model, layers) as probe:
        probe.backward(loss_of(model(x)))
        probe.step()
    check_equal(gradients_of(model), expected)
    return probe


def check_equal(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
