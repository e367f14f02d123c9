"""Networks for the tests of gl.InputGradients, and their gradients example by example."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet18

import gradlab as gl


def images(n=5, size=16, dtype=torch.float64, seed=0):
    return torch.randn(n, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def small(name="resnet8-width=4", seed=0):
    """One of our networks in float64, its normalization away from the identity."""
    model = gl.models.create(name, seed=seed).double().eval()
    generator = torch.Generator().manual_seed(seed + 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values, 0.5, 0.3, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=generator)
    return model


class InPlace(nn.Module):
    """Everything that overwrites: the input, a residual sum, ReLU behind normalization."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x.mul_(0.5).clamp_(-1, 1)
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += x
        return self.fc(self.relu(out).mean((2, 3)))


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double().eval()


MODELS = {
    "resnet": small,
    "plain": lambda: small("plain8-width=4"),
    "projections": lambda: small("resnet8-B-width=4"),
    "in place": lambda: seeded(InPlace),
    "torchvision": lambda: seeded(lambda: resnet18(num_classes=4)),
}


class Fixed(nn.Module):
    """A batch normalization with the statistics of one batch, written out by hand."""

    def __init__(self, norm, mean, variance):
        super().__init__()
        self.norm, self.mean, self.variance = norm, mean, variance

    def forward(self, x):
        shape = (1, -1, 1, 1)
        unit = (x - self.mean.view(shape)) / (self.variance.view(shape) + self.norm.eps).sqrt()
        return unit * self.norm.weight.view(shape) + self.norm.bias.view(shape)


def with_fixed_statistics(model, x):
    """The model with the batch's statistics as constants, one layer after another; no gradlab in it."""
    model = copy.deepcopy(model).eval()
    for name, norm in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]:
        seen = []
        handle = norm.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(args[0].clone()))
        with torch.no_grad():
            model(x.clone())
        handle.remove()
        (given,) = seen
        fixed = Fixed(norm, given.mean((0, 2, 3)), given.var((0, 2, 3), correction=0))
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], fixed)
    return model


def one_by_one(model, x):
    """The gradient of each example's own logits, each example run alone."""
    rows = []
    for image in x:
        alone = image[None].clone().requires_grad_()
        rows.append(torch.autograd.grad(model(alone.clone()).sum(), alone)[0])
    return torch.cat(rows)


def probed(model, x, **options):
    gradients = []
    with torch.no_grad(), gl.InputGradients(model, observe=gradients.append, **options):
        model(x)
    (gradient,) = gradients
    return gradient


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12 * other.abs().max().item())


class Checkpointed(nn.Module):
    """One of our networks, its stages recomputed in the backward pass."""

    def __init__(self, inner, reentrant=False):
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x):
        return self.inner.fc(checkpoint(self.stages, x, use_reentrant=self.reentrant).mean((2, 3)))

    def stages(self, x):
        x = F.relu(self.inner.bn1(self.inner.conv1(x)))
        return self.inner.layer3(self.inner.layer2(self.inner.layer1(x)))
