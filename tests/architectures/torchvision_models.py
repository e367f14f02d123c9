"""torchvision's families, made narrow and shallow where their own smallest model is large."""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import convnext, regnet, segmentation, swin_transformer, vgg, vision_transformer
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d


def resnet() -> nn.Module:
    """Blocks of two convolutions, one a stage."""
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


def resnext() -> nn.Module:
    """Bottleneck blocks with grouped convolutions, one a stage."""
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5, groups=4, width_per_group=4)


def vgg_bn() -> nn.Module:
    with torch.device("meta"):  # its classifier has 120 million weights
        net = vgg.VGG(nn.Identity(), num_classes=5, init_weights=False)
    net.features, net.avgpool = vgg.make_layers([8, "M", 16, "M", 16, "M"], batch_norm=True), nn.AdaptiveAvgPool2d(2)
    net.classifier[0], net.classifier[3], net.classifier[6] = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 5)
    return net


def alexnet() -> nn.Module:
    with torch.device("meta"):
        net = models.AlexNet(num_classes=5)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier[1], net.classifier[4], net.classifier[6] = nn.Linear(256, 32), nn.Linear(32, 32), nn.Linear(32, 5)
    for layer in net.features.to_empty(device="cpu"):
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return net


def densenet() -> nn.Module:
    return models.DenseNet(growth_rate=6, block_config=(2, 2, 2), num_init_features=12, num_classes=5)


def densenet_checkpointed() -> nn.Module:
    return models.DenseNet(4, (2, 2), num_init_features=8, num_classes=5, memory_efficient=True)


def mobilenet_v2() -> nn.Module:
    return models.mobilenet_v2(width_mult=0.25, num_classes=5)


def mobilenet_v3() -> nn.Module:
    return models.mobilenet_v3_small(width_mult=0.5, num_classes=5)


def mnasnet() -> nn.Module:
    return models.MNASNet(0.35, num_classes=5)


def efficientnet() -> nn.Module:
    block = models.efficientnet.MBConvConfig
    stages = [block(1, 3, 1, 16, 8, 1), block(4, 3, 2, 8, 12, 2), block(4, 5, 2, 12, 16, 1)]
    return models.EfficientNet(stages, dropout=0.0, num_classes=5)


def efficientnet_v2() -> nn.Module:
    block, fused = models.efficientnet.MBConvConfig, models.efficientnet.FusedMBConvConfig
    stages = [fused(1, 3, 1, 8, 8, 1), fused(4, 3, 2, 8, 16, 1), block(4, 3, 2, 16, 16, 1)]
    return models.EfficientNet(stages, dropout=0.0, num_classes=5, last_channel=32)


def convnext_reduced() -> nn.Module:
    block = convnext.CNBlockConfig
    return models.ConvNeXt([block(12, 24, 1), block(24, 32, 1), block(32, None, 1)], num_classes=5)


def _swin(block: type[nn.Module] | None = None, **options: object) -> nn.Module:
    if block is not None:
        options |= {"block": block, "downsample_layer": swin_transformer.PatchMergingV2}
    return models.SwinTransformer([4, 4], 12, [2, 2], [2, 3], [4, 4], num_classes=5, **options)


def swin() -> nn.Module:
    return _swin()


def swin_v2() -> nn.Module:
    return _swin(swin_transformer.SwinTransformerBlockV2)


def vit() -> nn.Module:
    net = vision_transformer.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(net.heads.head.weight, std=0.1)  # zero at first, so that nothing would reach the layers before
    return net


def maxvit() -> nn.Module:
    return models.MaxVit((32, 32), 8, 4, [8, 8], [1, 1], head_dim=4, stochastic_depth_prob=0.0, num_classes=5)


def regnet_reduced() -> nn.Module:
    block = regnet.BlockParams.from_init_params(depth=4, w_0=16, w_a=12.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return models.RegNet(block, num_classes=5, norm_layer=partial(nn.BatchNorm2d, eps=1e-5))


def shufflenet() -> nn.Module:
    return models.ShuffleNetV2([2, 2, 2], [8, 16, 24, 32, 48], num_classes=5)


def squeezenet() -> nn.Module:
    return models.squeezenet1_1(num_classes=5)


def googlenet() -> nn.Module:
    return models.GoogLeNet(num_classes=5, aux_logits=False, init_weights=False)


class _Segmentation(nn.Module):
    """A segmentation network of torchvision's parts on a narrow backbone; it gives a dict."""

    def __init__(self, head: nn.Module, whole: type[nn.Module]) -> None:
        super().__init__()
        backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        names = models._utils.IntermediateLayerGetter(backbone, {"2": "out"})
        self.net = whole(names, head, None)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.net(x)


def fcn() -> nn.Module:
    return _Segmentation(segmentation.fcn.FCNHead(16, 5), segmentation.FCN)


def deeplab() -> nn.Module:
    return _Segmentation(segmentation.deeplabv3.DeepLabHead(16, 5, (2, 3)), segmentation.DeepLabV3)


class FeaturePyramid(nn.Module):
    """A detector's backbone: maps of several sizes come out, as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n, m, 3, 2, 1, bias=False), FrozenBatchNorm2d(m), nn.ReLU(inplace=True))
            for n, m in ((3, 8), (8, 12), (12, 16))
        )
        self.pyramid = FeaturePyramidNetwork([8, 12, 16], 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for i, stage in enumerate(self.stages):
            maps[str(i)] = x = stage(x)
        return self.pyramid(maps)
