"""Test errors on CIFAR-10 that the papers publish: He et al. 2015, Table 6, and He et al. 2016, Tables 1 to 3."""

from __future__ import annotations

from typing import Any

FAIL = "fail"
"""What He et al. 2016 write in place of a test error above 20 %."""

VARIANT_TEST_ERROR = {
    "resnet": 6.61,
    "resnet-shortcut=0.5-beta=0.5": 12.35,
    "resnet-exclusive-gate=-6": 8.70,
    "resnet-exclusive-gate=-7": 9.81,
    "resnet-shortcut-gate=0": 12.86,
    "resnet-shortcut-gate=-6": 6.91,
    "resnet-C": 12.22,
    "resnet-bn-after-add": 8.17,
    "resnet-relu-before-add": 7.84,
    "resnet-relu-preact": 6.71,
    "resnet-preact": 6.37,
}
"""Errors of 110 layers in percent, by the series of the network, medians of five: He et al. 2016, Tables 1 and 2."""

FAILED_VARIANTS = (
    "plain",
    "resnet-shortcut=0.5",
    *(f"resnet-exclusive-gate={bias}" for bias in range(0, -6, -1)),
    "resnet-shortcut-dropout=0.5",
)
"""The series of Table 1 that fail with 110 layers."""

BOTTLENECK_TEST_ERROR = {
    ("resnet", 164): 5.93,
    ("resnet-bn-after-add", 164): 6.50,
    ("resnet-relu-before-add", 164): 6.14,
    ("resnet-relu-preact", 164): 5.91,
    ("resnet-preact", 164): 5.46,
    ("resnet", 1001): 7.61,
    ("resnet-preact", 1001): 4.92,
}
"""Errors of the nets with bottlenecks, by series and depth: He et al. 2016, Tables 2 and 3."""

PAPER_TEST_ERROR: dict[tuple[Any, Any], float] = {
    **{(series, 110): error for series, error in VARIANT_TEST_ERROR.items()},
    **BOTTLENECK_TEST_ERROR,
    ("resnet", 20): 8.75,
    ("resnet", 32): 7.51,
    ("resnet", 44): 7.17,
    ("resnet", 56): 6.97,
    ("resnet", 110): 6.43,
}
"""Test error in percent by series and depth; that of ResNet-110 is the best of five, of He et al. 2015."""

PAPERS_EPOCHS = 160
"""The fewest epochs of trainings comparable with the papers' of 64,000 iterations, which are 164 epochs."""
