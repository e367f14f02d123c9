"""Batch normalization by batch statistics, and folded into convolutions where only its output matters."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gradlab.models.blocks import ResidualBlock
from gradlab.models.cifar import CifarNet
from gradlab.models.imagenet import ImageNetNet


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch normalization use the statistics of each batch while the model stays in eval mode.

    Dropout stays off and no buffer changes: the running statistics are set aside and restored, even if the body
    raises.
    """
    aside: list[tuple[_BatchNorm, Tensor | None, Tensor | None]] = []
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            aside.append((module, module.running_mean, module.running_var))
            module.running_mean = module.running_var = None
    try:
        yield
    finally:
        for module, mean, var in aside:
            module.running_mean, module.running_var = mean, var


def is_foldable(model: nn.Module) -> bool:
    """Return whether `fold_batch_norm` supports a network: one of ours whose bnK directly follows its convK."""
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    return isinstance(model, CifarNet | ImageNetNet) and all(block.style.unit == "original" for block in blocks)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Fold every eval-mode batch normalization of one of our own networks into its convolution, in place.

    The convolution then outputs the response itself, in one pass over memory instead of two.

    Args:
        model: A network in eval mode for which `is_foldable` holds. In a projection, layer 1 normalizes layer 0.
    """
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            follower = "1" if name == "0" else name.replace("conv", "bn")
            norm = getattr(parent, follower, None)
            if isinstance(child, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(child, norm))
                setattr(parent, follower, nn.Identity())
    return model
