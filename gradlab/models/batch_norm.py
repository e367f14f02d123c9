"""Batch normalization in the two ways it can be measured, and folded away where only its value counts."""

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
    """Let batch normalization use the statistics of each batch, the model left in eval mode.

    Dropout stays off and no buffer changes: the running statistics are set aside and put back, also
    when the body raises.
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
    """Whether `fold_batch_norm` knows a network: ours, of original units, where each bnK follows its convK at once."""
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    return isinstance(model, CifarNet | ImageNetNet) and all(block.style.unit == "original" for block in blocks)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Fold every eval-mode batch normalization of one of our own networks into its convolution.

    The convolution then gives the response itself, in one pass over memory instead of two. Works in place.

    Args:
        model: A network that `is_foldable`, in eval mode. In a projection layer 1 follows layer 0.
    """
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            follower = "1" if name == "0" else name.replace("conv", "bn")
            norm = getattr(parent, follower, None)
            if isinstance(child, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(child, norm))
                setattr(parent, follower, nn.Identity())
    return model
