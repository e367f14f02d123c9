#!/usr/bin/env python3
"""Make the bundled CIFAR-10 sample and mean image from the real data set.

    python scripts/make_sample.py cifar10.npz

Reads the arrays x_train, x_test, y_test (uint8 NHWC, int64) and writes into gradlab/assets:

cifar10-sample.png   the first 100 test images of each class, in test order, one image a row of 1,024 pixels
cifar10-sample.json  their labels and their places in the test set
cifar10-mean.npz     the sum of the 50,000 training images, pixel by pixel, and their number
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ASSETS = Path(__file__).parent.parent / "gradlab" / "assets"
PER_CLASS = 100


def main() -> None:
    """Write the three files."""
    with np.load(sys.argv[1]) as data:
        x_train, x_test, y_test = data["x_train"], data["x_test"], data["y_test"]
    first = [np.flatnonzero(y_test == label)[:PER_CLASS] for label in range(10)]
    indices = np.sort(np.concatenate(first))
    sprite = Image.fromarray(x_test[indices].reshape(len(indices), -1, 3))
    sprite.save(ASSETS / "cifar10-sample.png", optimize=True)
    record = {"labels": y_test[indices].tolist(), "test_indices": indices.tolist()}
    (ASSETS / "cifar10-sample.json").write_text(json.dumps(record) + "\n")
    total = x_train.astype(np.int64).sum(0).transpose(2, 0, 1).astype(np.int32)
    np.savez(ASSETS / "cifar10-mean.npz", sum=total, count=len(x_train))
    print(f"{len(indices)} images, {(ASSETS / 'cifar10-sample.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
